"""The window that edits many captions: which edit, its words, and every difference it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Input, Static

from lora_tui.core import words
from lora_tui.core.cells import clean
from lora_tui.core.differences import in_one_line, pieces
from lora_tui.screens.base import Dialog
from lora_tui.widgets.bind import bindings
from lora_tui.widgets.rows import Cell, Column, Rows
from shared import wire
from shared.edits import KINDS, AnyEdit, EditError, Kind, editor
from shared.errors import LoraError

PAGE = 100  # differences asked for at once
AFTER = 0.2  # seconds without a key until the differences are worked out
_ARGUMENTS = 2  # at most


@dataclass(frozen=True)
class Choice:
    """A row of the list on the left: an edit, edits that are known already, or a state to set."""

    label: str
    help: str
    kind: Kind | None = None
    state: wire.CaptionState | None = None
    edits: tuple[AnyEdit, ...] = ()


Begin = tuple[Kind, tuple[str, ...]]  # an edit and its arguments
_STATES: tuple[wire.CaptionState, ...] = ("accepted", "flagged", "rejected", "unreviewed")
CHOICES = [
    *(Choice(kind.label, kind.help, kind=kind) for kind in KINDS.values()),
    *(Choice(f"set {state}", "set the state; texts stay", state=state) for state in _STATES),
]


class Kinds(Rows):
    """The list on the left. Enter goes on at once: a message would come behind keys typed fast."""

    def action_choose(self) -> None:
        screen = self.screen
        assert isinstance(screen, BulkEdit)
        screen.go_on(None)


class Argument(Input):
    """A text that the edit needs. Enter goes on at once, likewise."""

    async def action_submit(self) -> None:
        screen = self.screen
        assert isinstance(screen, BulkEdit)
        screen.go_on(self)


class BulkEdit(Dialog[wire.Edited | None]):
    """Answers what was changed, None when left. ``ask`` says which captions: its edits are filled
    in. Nothing is applied that is not on screen. ``choices``: what there is to choose from."""

    BINDINGS = bindings("bulk")

    def __init__(
        self, ask: wire.PreviewEdit, title: str, begin: Begin | None = None,
        choices: Sequence[Choice] = CHOICES,
    ) -> None:  # fmt: skip
        """``begin``: an edit that is chosen and filled in already; Enter makes it."""
        super().__init__()
        self._ask = ask
        self._title = title
        self._begin_with = begin
        self._choices = choices
        self._choice = choices[0]
        self._preview: wire.EditPreview | None = None
        self._previewed = ask  # what it answers
        self._shown: dict[int, wire.Difference] = {}
        self._timer: Timer | None = None
        self._applying = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -page") as window:
            window.border_title = self._title
            on = "on, then " if len(self._choices) > 1 else ""
            window.border_subtitle = f"enter: {on}make the changes · esc: leave"
            with Horizontal():
                yield Kinds(Column(""), id="kinds")
                with Vertical(id="edit"):
                    for number in range(_ARGUMENTS):
                        yield Argument(compact=True, id=f"argument{number}")
                    yield Static(markup=False, id="said")
                    yield Rows(Column("", 14), Column(""), id="differences")
                    with VerticalScroll(id="whole", can_focus=False):
                        yield Static(id="texts")
            yield self.keys_line("bulk.page_up", "bulk.page_down", "bulk.leave")

    @property
    def kinds(self) -> Kinds:
        return self.query_one(Kinds)

    @property
    def differences(self) -> Rows:
        return self.query_one("#differences", Rows)

    @property
    def fields(self) -> list[Input]:
        """The arguments of the edit that is chosen."""
        count = len(self._choice.kind.arguments) if self._choice.kind is not None else 0
        return [self.query_one(f"#argument{number}", Input) for number in range(count)]

    def on_mount(self) -> None:
        kind, arguments = self._begin_with or (self._choices[0].kind, ())
        place = next(n for n, choice in enumerate(self._choices) if choice.kind is kind)
        self.kinds.show(len(self._choices), lambda i: [self._choices[i].label], cursor=place)
        self.kinds.display = len(self._choices) > 1
        # Now: a later focus would take the keys of a field.
        asked = self.kinds.display and not self._begin_with
        self.set_focus(self.kinds if asked else self.differences)
        self._chosen(self._choices[place])
        for field, value in zip(self.fields, arguments, strict=False):
            field.value = value

    # ── which edit ──────────────────────────────────────────────────────────────────────────────

    def _chosen(self, choice: Choice) -> None:
        self._choice = choice
        names = choice.kind.arguments if choice.kind is not None else ()
        for number in range(_ARGUMENTS):
            field = self.query_one(f"#argument{number}", Input)
            field.display = number < len(names)
            field.placeholder = names[number] if number < len(names) else ""
        self._look()

    def on_rows_moved(self, message: Rows.Moved) -> None:
        choice = self._choices[self.kinds.cursor]
        if message.rows is self.differences:
            self._show_whole()
        elif choice is not self._choice:
            self._chosen(choice)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self._apply()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._look()

    def go_on(self, field: Input | None) -> None:
        """Enter, in the list or in a field: to the next thing to say, then do it."""
        choice = self._choices[self.kinds.cursor]
        if choice is not self._choice:  # the news of the cursor's move is still under way
            self._chosen(choice)
        place = self.fields.index(field) + 1 if field is not None else 0
        if place < len(self.fields):
            self.set_focus(self.fields[place])
        elif field is None:
            self.set_focus(self.differences)
        else:
            self._apply()

    # ── what it does ────────────────────────────────────────────────────────────────────────────

    def _asked(self) -> wire.PreviewEdit:
        """Raises EditError."""
        choice = self._choice
        if choice.kind is None:
            return replace(self._ask, edits=list(choice.edits), state=choice.state)
        edits = [choice.kind.make(*(field.value for field in self.fields))]
        editor(edits)
        return replace(self._ask, edits=edits, state=None)

    def _look(self, after: float = AFTER) -> None:
        """Forget what is shown and work it out anew, once no more keys come."""
        self._preview = None
        self._shown.clear()
        self.differences.show(0, lambda i: None, cursor=0)
        self._show_whole()
        if self._timer is not None:
            self._timer.stop()
        self.workers.cancel_group(self, "preview")
        try:
            asked = self._asked()
        except EditError as error:
            typed = any(field.value for field in self.fields)
            self._say(error.message if typed else self._choice.help, error=typed)
            return
        self._say("looking …")
        self._timer = self.set_timer(after, lambda: self._begin(asked))

    def _begin(self, asked: wire.PreviewEdit) -> None:
        async def look() -> None:
            try:
                preview = await self.lora.ask(asked, on_progress=self._progressed)
            except LoraError as error:
                self._say(error.message, error=True)
                return
            self._preview, self._previewed = preview, asked
            self._shown.clear()  # of words before: their timer may have rung when it was stopped
            self._say(_counted(preview))
            self.differences.show(preview.changed, self._cells, cursor=0)
            self._load(0)

        self.run_worker(look(), group="preview", exclusive=True)

    def _progressed(self, done: int, total: int, text: str) -> None:
        self._say(f"looking … {words.count(done)} of {words.count(total)}")

    def _cells(self, place: int) -> Sequence[Cell] | None:
        one = self._shown.get(place)
        if one is None:
            return None
        changed = in_one_line(one.text, one.new_text)
        if one.state != one.new_state:
            changed = f"{one.state} → {one.new_state}  {changed}"
        return [(one.name, "muted"), (changed, "warning") if one.current else changed]

    def on_rows_wanted(self, message: Rows.Wanted) -> None:
        if message.rows is self.differences:
            for page in range(message.first // PAGE, message.last // PAGE + 1):
                self._load(page)

    def _load(self, page: int) -> None:
        preview = self._preview
        if preview is None or page * PAGE in self._shown:
            return

        async def load() -> None:
            offset, end = page * PAGE, min((page + 1) * PAGE, preview.changed)
            while offset < end:  # an answer is shorter where captions are very long
                ask = wire.ListDifferences(
                    preview=preview.preview, offset=offset, limit=end - offset
                )
                try:
                    answer = await self.lora.ask(ask)
                except LoraError as error:
                    self._say(error.message, error=True)
                    return
                if preview is not self._preview or not answer.differences:
                    return
                for number, one in enumerate(answer.differences, offset):
                    self._shown[number] = one
                offset += len(answer.differences)
                self.differences.refresh()
                self._show_whole()

        self.run_worker(load(), group="pages")

    def _show_whole(self) -> None:
        """Both texts of the difference under the cursor, what is not in the other marked."""
        one = self._shown.get(self.differences.cursor)
        texts = Text()
        if one is not None:
            if one.current is not None:
                texts.append(
                    f"{one.current.by} has changed it since: it will be left alone.\n",
                    self.lora.tone("warning"),
                )
            parts = pieces(one.text, one.new_text)
            for mark, kind, tone in (("- ", "gone", "error"), ("+ ", "new", "success")):
                style = self.lora.tone(tone)
                texts.append(mark, style + self.lora.tone("bold"))
                for what, text in parts:
                    if what == kind:
                        texts.append(clean(text), style + self.lora.tone("bold underline"))
                    elif what == "same":
                        texts.append(clean(text))
                texts.append("\n")
        self.query_one("#texts", Static).update(texts)

    def _say(self, text: str, *, error: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.update(text)
        said.set_class(error, "-error")

    def state_changed(self, event: wire.AnyEvent) -> None:
        if isinstance(event, wire.CaptionChanged | wire.CaptionsChanged):
            here = event.dataset == self._ask.dataset
            if here and self.is_mounted and not self._applying:
                self._look(after=1.0)

    # ── doing it ────────────────────────────────────────────────────────────────────────────────

    def _apply(self) -> None:
        preview = self._preview
        if preview is None or not preview.changed or self._applying:
            return
        if self._asked() != self._previewed:  # a key came whose news is still under way
            return
        self._applying = True
        self._say(f"changing {words.plural(preview.changed, 'caption')} …")

        async def apply() -> None:
            try:
                edited = await self.lora.ask(wire.ApplyEdit(preview=preview.preview))
            except LoraError as error:
                self._applying = False
                self._say(error.message, error=True)
            else:
                self.dismiss(edited)

        self.run_worker(apply(), group="apply")

    def action_page_up(self) -> None:
        self.differences.action_page_up()

    def action_page_down(self) -> None:
        self.differences.action_page_down()

    def action_leave(self) -> None:
        if not self._applying:
            self.dismiss(None)


def _counted(preview: wire.EditPreview) -> str:
    if not preview.changed:
        said = "Nothing changes."
    else:
        said = f"{words.plural(preview.changed, 'caption')} will change"
        if preview.unchanged:
            said += f", {words.count(preview.unchanged)} stay"
    if preview.too_long:
        said += f"; {words.count(preview.too_long)} would become too long and stay"
    return said


def kept_text(kept: Sequence[wire.Kept], conflicts: int) -> str:
    """The captions that were left alone, both texts of each."""
    lines = [
        f"{clean(one.name)} · changed by {clean(one.current.by)} {words.ago(one.current.at)}\n"
        f"  it is:      {clean(one.current.text)}\n"
        f"  it was to be: {clean(one.text)}"
        for one in kept
    ]
    if more := conflicts - len(kept):
        lines.append(f"… and {words.count(more)} more.")
    return "\n\n".join(lines)
