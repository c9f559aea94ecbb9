"""Memory is tidied while nobody presses a key.

Python looks for cycles among all objects whenever many new ones have come, and stops everything
for that: with this app's some 300 000, a quarter of a second, in the middle of a caption. Here it
looks at the young ones as they come, and at the others in a rest; what is there when the app has
been painted first (modules, style sheets) is never looked at again.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

from textual import events
from textual.app import App

YOUNG = 5_000  # new objects until those are looked through
MIDDLE = 5  # times that, until what stayed of them is looked through once more: 10 ms
OLD = 2_000  # times that, until all is, whether there was a rest or not
REST = 2.0  # seconds without a key
DUE = 5  # times that what stayed was looked through, until a rest is used


class Tidying(App[int]):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._touched = time.monotonic()

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.InputEvent):
            self._touched = time.monotonic()
        await super().on_event(event)

    async def tidy(self) -> None:
        """Do it, for as long as the app is there. For a process that is this app alone."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, OLD)
        while True:
            await asyncio.sleep(REST / 2)
            if time.monotonic() - self._touched > REST and gc.get_count()[2] >= DUE:
                gc.collect()
