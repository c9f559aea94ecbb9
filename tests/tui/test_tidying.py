"""Memory is tidied in a rest, and never under the fingers."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from lora_tui import tidying


class Rubbish:
    """In the place of Python's collector."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.waiting = 0
        self.module = SimpleNamespace(
            collect=self._collect,
            freeze=lambda: self.done.append("freeze"),
            set_threshold=lambda *numbers: self.done.append("limits"),
            get_count=lambda: (0, 0, self.waiting),
        )

    def _collect(self) -> None:
        self.done.append("collect")
        self.waiting = 0


async def test_it_waits_for_a_rest_and_for_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rubbish = Rubbish()
    monkeypatch.setattr(tidying, "gc", rubbish.module)
    monkeypatch.setattr(tidying, "REST", 0.02)
    app = tidying.Tidying()
    begun = ["collect", "freeze", "limits"]

    app._touched = time.monotonic() + 3600  # somebody goes on pressing keys
    task = asyncio.create_task(app.tidy())
    await asyncio.sleep(0.05)
    rubbish.waiting = tidying.DUE
    await asyncio.sleep(0.2)
    assert rubbish.done == begun

    app._touched = 0.0
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if len(rubbish.done) > 3:
            break
    assert rubbish.done == [*begun, "collect"]
    await asyncio.sleep(0.2)
    assert rubbish.done == [*begun, "collect"]  # nothing has come since
    task.cancel()
