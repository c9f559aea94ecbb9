"""Textual's bindings from the table of actions."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from lora_tui.actions import of_scope


def bindings(scope: str) -> list[BindingType]:
    """The bindings of one scope; each has its action's id, so that the keymap can move it."""
    return [
        Binding(
            action.keys,
            action.name,
            action.label,
            show=False,
            id=action.id,
            priority=action.priority,
        )
        for action in of_scope(scope)
    ]
