"""The candidates under a caption: whose each is, and where it is not as the caption is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Static

from lora_tui.core.cells import clean, fit
from lora_tui.core.offers import parts, whose
from lora_tui.widgets.tones import tone_style
from shared.wire import Candidate

MOST = 9  # as many as there are digits
_READ = 2000  # characters of a text that are compared for a line
_LEAD = 8  # of what is the same, before the first difference
_GONE = 16  # cells of what is not in it


class Offers(Static):
    """A line each, as many as there is room for; not there while there are none."""

    DEFAULT_CSS = """
    Offers {
        height: auto; max-height: 10; display: none; border-top: solid $line;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    Offers.-shown { display: block; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.candidates: list[Candidate] = []
        self._caption = ""

    def show(self, caption: str, candidates: Sequence[Candidate] | None = None) -> None:
        """Candidates for ``caption``; None: those that are there, for the text it is by now."""
        new = self.candidates if candidates is None else list(candidates[:MOST])
        if (new, caption) == (self.candidates, self._caption):
            return
        self.candidates, self._caption = new, caption
        self.set_class(bool(new), "-shown")
        if new:
            lines = [self._line(number, one) for number, one in enumerate(new, 1)]
            self.update(Text("\n", no_wrap=True, overflow="ellipsis").join(lines))

    def _line(self, number: int, one: Candidate) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{number} ", tone_style(self, "primary bold"))
        line.append(f"{fit(whose(one), 9)} ", tone_style(self, "muted"))
        gone = tone_style(self, "error")
        found = parts(self._caption[:_READ], one.text[:_READ])
        for place, part in enumerate(found):
            if part.same and not place and len(found) > 1 and len(part.old) > _LEAD:
                line.append(f"…{clean(part.old[-_LEAD + 1 :])}")
            elif part.same:
                line.append(clean(part.old))
            elif part.new:
                line.append(clean(part.new), tone_style(self, "success bold underline"))
            else:
                line.append(f"[-{fit(part.old, min(cell_len(part.old), _GONE))}-]", gone)
        return line
