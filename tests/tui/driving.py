"""Driving the app in tests: open it on a daemon, press keys, wait for what must become so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from lora_tui.app import LoraApp
from tests.tui import standin


@asynccontextmanager
async def opened(
    daemon: standin.Daemon, *keys: str, size: tuple[int, int] = (120, 40), **options: Any
) -> AsyncIterator[tuple[LoraApp, Pilot[int], standin.Client]]:
    """The app, attached, after some keys."""
    made: list[standin.Client] = []

    async def connect() -> standin.Client:
        made.append(standin.Client(daemon))
        return made[-1]

    app = LoraApp(connect, where="box", **options)  # type: ignore[arg-type]
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: app.connection is not None)
        await pilot.press(*keys)
        await pilot.pause()
        yield app, pilot, made[0]


async def until(pilot: Pilot[Any], true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so, by letting the app work."""
    for _ in range(int(seconds / 0.05)):
        if true():
            return
        await pilot.pause(0.05)
    assert true(), "it never became so"


def text_of(app: LoraApp) -> str:
    """What stands on the screen, line by line."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())
