"""Keys done strictly in their order, and the two-key way to the screens."""

from __future__ import annotations

import asyncio
import contextlib

from textual import events
from textual.app import App
from textual.containers import VerticalScroll
from textual.widget import Widget

from lora_tui.actions import BY_ID, PLACES
from lora_tui.keymap import Keymap
from lora_tui.screens.base import Place
from lora_tui.screens.navigate import go_hint
from lora_tui.widgets.rows import Rows


class InOrder(App[int]):
    """Textual looks a key's binding up when the key has bubbled through the widgets, so keys that
    come in one burst (a slow link) overtake each other: the ``d`` of a word would reject a picture
    because the field of the ``e`` before it had not opened yet. Here a key is done before the next
    one is looked at."""

    keymap: Keymap
    _going = False  # after ``g``
    _leaving = False
    _keys_in_order = False  # the first screen is there

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key) or event.is_forwarded or not self._keys_in_order:
            await super().on_event(event)
        elif self._leaving:
            pass  # typed ahead of the end
        elif self._going:
            await self._gone(event.key)
        elif self._has_the_keys(event) or not await self.run_key(event.key):
            focused = self.focused
            await super().on_event(event)
            if focused is not None:
                await _worked_off(focused)

    def _has_the_keys(self, event: events.Key) -> bool:
        """Whether the focused widget is to see a key before any binding does."""
        focused = self.focused
        if focused is None or isinstance(focused, Rows | VerticalScroll):
            return False
        from textual.widgets import Input, Select  # not before the first paint

        if isinstance(focused, Input):
            return focused.check_consume_key(event.key, event.character)
        return not isinstance(focused, Select)  # which has bindings, and they come first

    async def run_key(self, key: str) -> bool:
        """Do what a key is bound to just now."""
        return await self._check_bindings(key, priority=True) or await self._check_bindings(key)

    def action_go(self) -> None:
        if isinstance(self.screen, Place):
            self._going = True
            self.screen.show_keys(hint=go_hint(self.keymap))

    async def _gone(self, key: str) -> None:
        """The key after ``g``."""
        self._going = False
        if isinstance(self.screen, Place):
            self.screen.show_keys()
        for name, _, _, _ in PLACES:
            if key in self.keymap.keys_of(BY_ID[f"go.{name}"]):
                await self.action_open(name)

    async def action_open(self, name: str) -> None:
        """Open a screen by its name; it is there when this returns."""
        if not self.screen.is_modal:
            await self.switch_mode(name)


async def _worked_off(widget: Widget) -> None:
    """Wait until a widget has worked off its messages so far."""
    done = asyncio.Event()

    async def tell() -> None:
        done.set()

    if widget.post_message(events.Callback(callback=tell)):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await done.wait()
