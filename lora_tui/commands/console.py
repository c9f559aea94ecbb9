"""Where a command speaks: data on stdout, talk on stderr, JSON when asked, questions once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shared.errors import Code, Exit, LoraError

MOST_CHOICES = 8  # that a question lists
REPORT_EVERY = 10.0  # seconds between progress lines where there is no terminal to redraw


class Console:
    """stdout and stderr of one command."""

    def __init__(self, *, as_json: bool = False, yes: bool = False) -> None:
        self.as_json = as_json
        self.yes = yes
        self._redraws = sys.stderr.isatty() and not as_json
        self._line = ""  # the progress line that is on the terminal now
        self._reported = 0.0

    def show(self, value: Any, lines: Callable[[], Iterable[str]]) -> None:
        """The command's result: ``value`` as one JSON object, or ``lines`` for people."""
        self.settle()
        if self.as_json:
            self._put(to_json(value))
            return
        from lora_tui.core.cells import clean

        for line in lines():
            self._put(clean(line))

    def raw(self, text: str) -> None:
        """A file as it is, on stdout."""
        self.settle()
        sys.stdout.write(text)

    def event(self, value: Any) -> None:
        """One step of something long, as a JSON line; nothing without ``--json``."""
        if self.as_json:
            self._put(to_json(value))

    def say(self, text: str) -> None:
        """Talk, on stderr. Silent with ``--json``, where stderr is for errors alone."""
        self.settle()
        if not self.as_json:
            self._talk(text)

    def progress(self, text: str, *, key: str = "") -> None:
        """Where something long is: redrawn on a terminal, else a line now and then and whenever
        ``key`` changes."""
        if self.as_json:
            return
        if self._redraws:
            from shutil import get_terminal_size

            from lora_tui.core.cells import fit

            width = get_terminal_size().columns - 1
            print(f"\r{fit(text, width)}", end="", file=sys.stderr, flush=True)
            self._line = text
        elif key != self._line or time.monotonic() - self._reported >= REPORT_EVERY:
            self._talk(text)
            self._line, self._reported = key, time.monotonic()

    def settle(self) -> None:
        """Leave the progress line standing and go below it."""
        if self._redraws and self._line:
            print(file=sys.stderr, flush=True)
            self._line = ""

    def confirm(self, question: str) -> None:
        """Ask once before something is lost. Raises LoraError when the answer is not yes, or when
        there is nobody to ask and ``--yes`` is not given."""
        if self.yes:
            return
        if self.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise LoraError(Code.BAD_REQUEST, f"{question} Nobody is there to ask: give --yes.")
        self._talk(f"{question} [y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise LoraError(Code.CANCELLED, "Nothing was deleted.")

    def ask(self, question: str, default: str, choices: Sequence[str] = ()) -> str:
        """An answer from the person at the terminal, the default where nothing is typed; asked
        again until it is one of ``choices``. Without a terminal: the default."""
        if self.as_json or self.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return default
        few = f" ({', '.join(choices)})" if len(choices) <= MOST_CHOICES else ""
        while True:
            self._talk(f"{question}{few} [{default}] ", end="")
            line = sys.stdin.readline()
            if not line:
                raise LoraError(Code.CANCELLED, "Nothing was made.")
            answer = line.strip() or default
            if not choices or answer in choices:
                return answer
            self._talk(f"There are {', '.join(choices)}.")

    def fail(self, error: LoraError) -> Exit:
        """Say what went wrong, once, and give the exit status it has."""
        self.settle()
        if self.as_json:
            print(to_json({"error": error.failure()}), file=sys.stderr, flush=True)
        else:
            self._talk(f"lora-tui: {error.message}")
        return error.exit

    def _talk(self, text: str, end: str = "\n") -> None:
        """Names come from files and other people: they must not move the cursor."""
        from lora_tui.core.cells import clean

        print(clean(text), end=end, file=sys.stderr, flush=True)

    def _put(self, line: str) -> None:
        print(line, flush=True)


def to_json(value: Any) -> str:
    """JSON on one line; text stays readable."""
    import msgspec

    return msgspec.json.encode(value).decode()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns, wide characters counted as two. A name that starts ``>`` is aligned right.
    Never cut: a terminal wraps, a pipe keeps everything."""
    from lora_tui.core.cells import Align, clean, fit

    body = [[clean(cell) for cell in row] for row in rows]
    heads = [name.removeprefix(">") for name in columns]
    aligns: list[Align] = ["right" if name.startswith(">") else "left" for name in columns]
    widths = [max(map(_cells, column)) for column in zip(heads, *body, strict=True)]
    return [
        "  ".join(fit(c, w, a) for c, w, a in zip(row, widths, aligns, strict=True)).rstrip()
        for row in (heads, *body)
    ]


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names and values, the values in one column; rows without a value are left out."""
    from lora_tui.core.cells import clean

    kept = [(name, clean(value)) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    return [f"{name:<{width}}  {value}" for name, value in kept]


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
