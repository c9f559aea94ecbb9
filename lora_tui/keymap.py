"""The user's own keys: ``keymap.toml`` beside the settings, checked, with every mistake said."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_tui.actions import ACTIONS, BY_ID, Action, shown_key

_NAMED = frozenset(
    [
        "space",
        "enter",
        "tab",
        "escape",
        "backspace",
        "delete",
        "insert",
        "home",
        "end",
        "pageup",
        "pagedown",
        "up",
        "down",
        "left",
        "right",
        "question_mark",
        "colon",
        "slash",
        "minus",
        "plus",
        "left_square_bracket",
        "right_square_bracket",
        "comma",
        "full_stop",
        "semicolon",
        "underscore",
        "equals_sign",
        "asterisk",
        "number_sign",
        "at",
        "exclamation_mark",
        "less_than_sign",
        "greater_than_sign",
    ]
) | {f"f{n}" for n in range(1, 25)}
_CHARACTERS = {
    "?": "question_mark",
    ":": "colon",
    "/": "slash",
    "-": "minus",
    "+": "plus",
    "[": "left_square_bracket",
    "]": "right_square_bracket",
    " ": "space",
    ".": "full_stop",
    ";": "semicolon",
    "_": "underscore",
    "=": "equals_sign",
    "*": "asterisk",
    "#": "number_sign",
    "@": "at",
    "!": "exclamation_mark",
    "<": "less_than_sign",
    ">": "greater_than_sign",
}

_EDITS = frozenset(["left", "right", "home", "end", "backspace", "delete", "enter"])


@dataclass(frozen=True)
class Keymap:
    """Keys by action id where they differ from the table, and what was wrong with the file."""

    keys: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def keys_of(self, action: Action) -> list[str]:
        return self.keys.get(action.id, action.keys).split(",")

    def shown(self, action: Action) -> str:
        """The action's first key, as people write it."""
        return shown_key(self.keys_of(action)[0])

    def in_bar(self, action: Action) -> tuple[str, str]:
        """Key and label as the key bar has them: ``1–5 rate``, ``←–→ weight`` for a row's last."""
        if not action.row:
            return self.shown(action), action.label
        first = self.shown(BY_ID[action.row])
        return f"{first}–{self.shown(action)}", action.label.rpartition(" ")[0]

    def shown_typing(self, action: Action) -> str:
        """The action's first key that a text field leaves to others; empty if none."""
        keys = self.keys_of(action)
        return next((shown_key(key) for key in keys if not _of_field(key)), "")

    def all_shown(self, action: Action) -> str:
        return " ".join(shown_key(key) for key in self.keys_of(action))


def _of_field(key: str) -> bool:
    """Whether a text field types it, moves by it or deletes."""
    return len(key) == 1 or key in _CHARACTERS.values() or key.rpartition("+")[2] in _EDITS


def load(path: Path) -> Keymap:
    """Read the keymap. A missing file is an empty one; what cannot be used is left out and said."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Keymap()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return Keymap(problems=(f"{path.name} could not be read: {error}.",))
    keys: dict[str, str] = {}
    problems: list[str] = []
    for name, value in _leaves(tree):
        if name not in BY_ID:
            close = difflib.get_close_matches(name, BY_ID, n=1)
            hint = f" Did you mean {close[0]}?" if close else " The help (?) lists the names."
            problems.append(f"{path.name}: there is no action {name}.{hint}")
            continue
        wanted = [value] if isinstance(value, str) else value
        if not isinstance(wanted, list) or not all(isinstance(key, str) for key in wanted):
            problems.append(f'{path.name}: {name} takes a key or a list of keys, such as "ctrl+n".')
            continue
        names = []
        for key in wanted:
            known = _key_name(key.strip() or key)
            if known is None:
                problems.append(f"{path.name}: {name}: there is no key {key!r}.")
            else:
                names.append(known)
        if names:
            keys[name] = ",".join(names)
    problems += _clashes(keys, path.name)
    return Keymap(keys, tuple(problems))


def example() -> str:
    """A keymap file with every action and its usual keys, commented out."""
    lines = ["# Keys of lora-tui. Take away the # before a line to change it."]
    scope = ""
    for action in ACTIONS:
        if action.scope != scope:
            scope = action.scope
            lines += ["", f"[{scope}]"]
        keys = ", ".join(f'"{key}"' for key in action.keys.split(","))
        lines.append(f"# {action.name} = [{keys}]  # {action.help}")
    return "\n".join(lines) + "\n"


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _key_name(key: str) -> str | None:
    *modifiers, base = key.split("+") if len(key) > 1 else [key]
    if not all(modifier in ("ctrl", "shift", "alt") for modifier in modifiers):
        return None
    base = _CHARACTERS.get(base, base)
    if base[:1] == "F" and base[1:].isdigit():
        base = base.lower()
    if base not in _NAMED and not (len(base) == 1 and base.isprintable()):
        return None
    return "+".join([*modifiers, base])


def _clashes(keys: dict[str, str], file: str) -> list[str]:
    """Two actions of one screen on one key, where the file caused it."""
    problems = []
    for scope in {BY_ID[name].scope for name in keys}:
        taken: dict[str, str] = {}
        for action in ACTIONS:
            if action.scope != scope:
                continue
            for key in keys.get(action.id, action.keys).split(","):
                other = taken.setdefault(key, action.id)
                if other != action.id and (other in keys or action.id in keys):
                    problems.append(
                        f"{file}: {shown_key(key)} is the key of both {other} and {action.id}; "
                        f"{other} takes it."
                    )
    return problems
