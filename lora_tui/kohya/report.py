"""What becomes of kohya's options: a recipe as plain values, and a line on each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lora_tui.kohya.files import shown
from shared import recipe

Verdict = Literal["taken", "nearly", "default", "left out"]
_DEFAULTS = {option.key: option.default for option in recipe.options()}
_KINDS = {option.key: option.type for option in recipe.options()}


@dataclass(frozen=True)
class Line:
    """What became of one option of kohya's. ``ours``: the recipe's option, if it has one."""

    key: str
    value: str
    verdict: Verdict
    ours: str = ""
    words: str = ""


@dataclass
class Translation:
    """A recipe as plain values, and the report."""

    tree: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def put(self, ours: str, value: Any) -> None:
        """Set an option of the recipe."""
        section, dot, name = ours.partition(".")
        if dot:
            self.tree.setdefault(section, {})[name] = value
        else:
            self.tree[ours] = value

    def take(self, key: str, given: Any, ours: str, value: Any, words: str = "") -> None:
        """Set an option, and say so; ``words``: what is not quite the same."""
        self.put(ours, value)
        verdict: Verdict = "nearly" if words else "taken"
        if not words and _DEFAULTS[ours] == value:
            verdict = "default"
        self.lines.append(Line(key, shown(given), verdict, ours, words))

    def convert(self, key: str, given: Any, ours: str, words: str = "") -> bool:
        """Take a value that means the same, if it is of the right type; whether it was."""
        value = converted(given, ours)
        if value is None:
            self.leave(key, given, f"not what {ours} can be")
            return False
        self.take(key, given, ours, value, words)
        return True

    def take_back(self, ours: str, why: str) -> None:
        """Leave out after all what was taken as our option, if anything was."""
        section, _, name = ours.partition(".")
        if not self.tree.get(section, {}).get(name):
            return
        del self.tree[section][name]
        for number, line in enumerate(self.lines):
            if line.ours == ours:
                self.lines[number] = Line(line.key, line.value, "left out", "", why)

    def leave(self, key: str, given: Any, why: str) -> None:
        """Say why an option is left out."""
        self.lines.append(Line(key, shown(given), "left out", "", why))

    def idle(self, key: str, given: Any, why: str) -> None:
        """Say that an option needs nothing: it is off, or so anyway."""
        self.lines.append(Line(key, shown(given), "default", "", why))


def converted(value: Any, ours: str) -> Any:
    """A value in the type of our option; None where it is of another."""
    kind = _KINDS[ours]
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is int:
        return value if type(value) is int else None
    if kind is bool:
        return value if type(value) is bool else None
    if kind is float:
        return None
    return str(value)  # text, or one of some words, which the recipe's own check names
