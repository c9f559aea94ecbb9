"""One line in which a tag is typed, among the chips."""

from __future__ import annotations

from collections.abc import Callable

from textual import events
from textual.widgets import Input

from lora_tui.actions import of_scope
from lora_tui.core.completion import typed
from lora_tui.keymap import Keymap
from lora_tui.widgets.suggestions import Suggestions


class TagEntry(Input):
    """``begin`` opens it. ``taken(tag, more)`` is called at once: with None when it is left, with
    ``more`` where a comma asked for another one."""

    DEFAULT_CSS = """
    TagEntry { display: none; margin-top: 1; }
    TagEntry.-shown { display: block; }
    """

    def __init__(self, suggestions: Suggestions, taken: Callable[[str | None, bool], None]) -> None:
        super().__init__(compact=True, select_on_focus=False, id="entry")
        self.can_focus = False
        self._suggestions = suggestions
        self._taken = taken
        self.open = False

    def begin(self, text: str, placeholder: str) -> None:
        """Type a tag, from ``text`` on."""
        self.placeholder = placeholder
        self.value = text
        self.action_end()
        self.open = self.can_focus = True
        self.add_class("-shown")
        self.screen.set_focus(self)  # now: the next key is a letter of the tag

    def close(self) -> None:
        self.open = self.can_focus = False
        self.remove_class("-shown")
        self._suggestions.hide()

    def check_consume_key(self, key: str, character: str | None) -> bool:
        """Every key comes here first, so that none overtakes another."""
        return True

    def on_key(self, event: events.Key) -> None:
        keymap: Keymap = self.app.keymap  # type: ignore[attr-defined]
        at_end = self.cursor_position == len(self.value)
        if (event.key != "right" or at_end) and self._suggestions.key(event.key, keymap):
            event.stop()
            event.prevent_default()
            return
        for action in of_scope("entry"):
            if event.key in keymap.keys_of(action):
                event.stop()
                event.prevent_default()
                value = self.value if action.name != "leave" else None
                self._taken(value, action.name == "more")
                return
        if event.key in ("tab", "shift+tab"):
            event.stop()
            event.prevent_default()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.open:
            self._suggestions.follow(typed(self.value, self.cursor_position), self._complete)

    def _complete(self, text: str, tag: str) -> None:
        """``tag`` in place of ``text``, which ends at the cursor."""
        end = self.cursor_position
        self.replace(tag, end - len(text), end)

    def on_blur(self, event: events.Blur) -> None:
        if self.open and self.app.app_focus:
            self._taken(self.value, False)
