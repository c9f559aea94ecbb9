"""The domain in the test's own loop, without sockets to clients, with a worker of our choosing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from lora_daemon import supervisor
from lora_daemon.domain import Domain
from lora_daemon.service import Context, Daemon, Handlers
from lora_daemon.store import Store
from shared import wire
from shared.paths import Workspace
from shared.safetensors_file import Tensor, write
from tests.daemon import process

WITHIN = 20.0
R = TypeVar("R")


FAKE = Path(__file__).with_name("fake_worker.py")


def with_fake_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, log: str = "log") -> None:
    """Daemons get a worker that obeys; its mark and its log lie in ``folder``."""
    monkeypatch.setattr(supervisor, "_command", lambda: [sys.executable, str(FAKE)])
    monkeypatch.setenv("PYTHONPATH", str(FAKE.parents[2]))
    monkeypatch.setenv("FAKE_MARK", str(folder / "mark"))
    monkeypatch.setenv("FAKE_LOG", str(folder / log))
    monkeypatch.setenv("FAKE_WORKER", "obey")


class House:
    """Calls go straight to the handlers; every event and live value wakes ``until``."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.workspace = Workspace(home)
        self.workspace.log.parent.mkdir(exist_ok=True)
        self.store = Store(self.workspace.database)
        self.store.announce = self._heard
        self.handlers = Handlers()
        self.heard: list[Any] = []  # events and live values, in order
        self._news = asyncio.Event()
        self.domain = Domain(Daemon(self.workspace, self.store, self), self.handlers)

    def publish(self, value: wire.AnyLive) -> None:
        self._heard(value)

    async def call(self, request: wire.Request[R], by: str = "tester") -> R:
        context = Context(by=by, key="", progress=lambda *_: None)
        answer: R = await self.handlers[type(request)](context, request)
        return answer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def run(self, run: str = "r0001") -> wire.Run:
        return next(one for one in self.domain.state().runs if one.id == run)

    async def close(self) -> None:
        await self.domain.close(now=True)
        self.store.close()

    def _heard(self, value: Any) -> None:
        self.heard.append(value)
        self._news.set()


@asynccontextmanager
async def opened(folder: Path, *, pictures: int = 0, base: bool = False) -> AsyncIterator[House]:
    """A house at work on the workspace ``folder``/home, with a dataset ``set`` of so many pictures
    and a hollow base ``base``, closed in the end."""
    house = House(folder / "home")
    await house.domain.start()
    if pictures:
        made = process.pictures(folder / "set", pictures)
        await house.call(wire.ImportDataset(path=str(made)))
    if base:
        await house.call(wire.AddBase(path=str(hollow_base(folder / "base"))))
    try:
        yield house
    finally:
        await house.close()


def hollow_base(folder: Path) -> Path:
    """A diffusers folder that passes inspection and weighs nothing."""
    for part, names in {
        "text_encoder": {"config.json": {}},
        "unet": {"config.json": {"in_channels": 4, "out_channels": 4, "sample_size": 8}},
        "vae": {"config.json": {"block_out_channels": [1, 1, 1, 1]}},
        "scheduler": {"scheduler_config.json": {}},
        "tokenizer": {"vocab.json": {}, "merges.txt": {}},
    }.items():
        (folder / part).mkdir(parents=True)
        for name, table in names.items():
            (folder / part / name).write_bytes(msgspec.json.encode(table))
    for part, stem in (
        ("text_encoder", "model"),
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
    ):
        write(folder / part / f"{stem}.safetensors", {"w": Tensor("F32", (1,), bytes(4))}, {})
    return folder
