"""A sweep in the Train form: fields that hold several values, each checked, and their runs."""

from __future__ import annotations

import re
import tomllib

import tomli_w

from lora_tui.core.form import Form, kind_of, read
from shared import recipe as recipes
from shared import sweeps
from shared.errors import LoraError
from shared.recipe import Option
from shared.sweeps import Swept

_BARE = re.compile(r"[A-Za-z][\w.+-]*( [\w.+-]+)*")  # text that means itself without quotes
_SWITCH = {"yes": "true", "no": "false"}


class Axes:
    """What each field that is swept holds, by key, as it is typed: ``4, 8, 16``."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self.texts: dict[str, str] = {}
        self._made: tuple[str, list[str], list[Swept]] = ("", [], [])

    def __bool__(self) -> bool:
        return bool(self.texts)

    def pieces(self, key: str) -> list[str]:
        """The values of a field, as they are typed."""
        found = [piece.strip() for piece in sweeps.divided(self.texts[key])]
        return found if any(found) else []

    def problem(self, key: str) -> str:
        """What is wrong with the values of a field, in words; empty if nothing is."""
        pieces = self.pieces(key)
        if not pieces:
            return "no value yet: 4, 8, 16"
        if not all(pieces):
            return "a value is missing beside a comma"
        option = self._form.options[key]
        tomls = [toml(option, piece) for piece in pieces]
        for place, piece in enumerate(pieces):
            if tomls[place] in tomls[:place]:
                return f"{piece} is there twice"
            why = self._form.problem_of(key, _value(option, piece))
            if why:
                return f"{piece}: {why}"
        return ""

    def problems(self) -> dict[str, str]:
        """What is wrong, by key: with single values, else with a combination of them."""
        found = {key: self.problem(key) for key in self.texts}
        found = {key: text for key, text in found.items() if text}
        if found or not self.texts:
            return found
        try:
            self.runs()
        except LoraError as error:
            which, _, why = error.message.partition(": ")
            named = self._form.named(why)
            swept = [key for key in named if key in self.texts]
            key = [*swept, *named, *self.texts][0]
            return {key: f"{which.removeprefix('the recipe ')}: {why}" if why else which}
        return {}

    def sweep(self) -> list[str]:
        """The axes as the daemon takes them: ``network.rank=4,8,16``."""
        options = self._form.options
        return [
            f"{key}={','.join(toml(options[key], piece) for piece in self.pieces(key))}"
            for key in self.texts
        ]

    def recipe(self) -> str:
        """The recipe that all runs share, as TOML; a swept field says what it said before."""
        return tomli_w.dumps(self._form.tree())

    def runs(self) -> list[Swept]:
        """Every run of the sweep. Raises LoraError(INVALID_RECIPE)."""
        recipe, sweep = self.recipe(), self.sweep()
        if self._made[:2] != (recipe, sweep):
            self._made = (recipe, sweep, sweeps.swept(recipe, sweep))
        return self._made[2]


def toml(option: Option, piece: str) -> str:
    """One value of a sweep as a sweep is written: as short as it can be."""
    kind = kind_of(option)
    if kind == "switch":
        return _SWITCH.get(piece.lower(), piece)
    if kind == "number":
        return piece if _number(piece) else str(read(option, piece))
    if kind != "list" and _BARE.fullmatch(piece) and piece not in ("true", "false", "inf", "nan"):
        return piece
    value = _value(option, piece)
    return piece if value == piece and piece[:1] in "\"'" else recipes.written(value)


def _value(option: Option, piece: str) -> object:
    """What one piece stands for; what makes no sense stays text, for the schema to say so."""
    kind = kind_of(option)
    if kind == "switch":
        return {"true": True, "false": False}.get(_SWITCH.get(piece.lower(), piece), piece)
    if piece[:1] in "\"'" or (kind == "list" and piece[:1] == "["):
        try:
            return tomllib.loads(f"value = {piece}")["value"]
        except tomllib.TOMLDecodeError:
            return piece
    return read(option, piece)


def _number(piece: str) -> bool:
    try:
        return isinstance(tomllib.loads(f"value = {piece}")["value"], int | float)
    except tomllib.TOMLDecodeError:
        return False
