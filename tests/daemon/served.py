"""A server in the test's own loop, on a real socket, with handlers a test can steer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from lora_daemon.server import Server
from lora_daemon.service import Context, Handlers
from lora_daemon.store import Store
from shared import paths, wire
from shared.client import Client
from shared.errors import Code, LoraError

WITHIN = 10.0


class Served:
    """Store, server and a few handlers with a will of their own.

    AddBase makes a base (an event) and counts ``effects``; its path says how: "wait" waits for
    ``gate``, "forget" leaves remembering to the server. InspectLora: "crash" meets a bug, "wait"
    waits for ``gate``, "big:N" answers N bytes, "steps" tells progress.
    """

    def __init__(self, home: Path) -> None:
        paths.private(home)
        self.endpoint = f"ipc://{paths.private(paths.socket_path(home).parent) / 'test.sock'}"
        self.store = Store(home / "test.sqlite3")
        handlers = Handlers()
        handlers.add(wire.AddBase, self._add)
        handlers.add(wire.InspectLora, self._inspect)
        handlers.add(wire.GetState, self._state)
        self.server = Server(self.store, handlers)
        self.server.state = self.state
        self.server.bind(self.endpoint)
        self.server.start()
        self.effects = 0
        self.entered = asyncio.Event()  # a waiting handler was entered
        self.cancelled = asyncio.Event()  # it was cancelled
        self.gate = asyncio.Event()
        self._clients: list[Client] = []
        self._raw: list[Raw] = []

    async def client(self, **options: Any) -> Client:
        """A client of this server, closed with it."""
        client = await Client.connect(self.endpoint, name="tester", timeout=WITHIN, **options)
        self._clients.append(client)
        return client

    def raw(self, **options: int) -> Raw:
        """A socket that says only what it is told to."""
        raw = Raw(self.endpoint, **options)
        self._raw.append(raw)
        return raw

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for raw in self._raw:
            raw.close()
        await self.server.close("The test is over.")
        self.store.close()

    def state(self) -> wire.State:
        rows = self.store.query("SELECT base FROM bases ORDER BY rowid")
        decode = wire.msgspec.msgpack.Decoder(wire.BaseModel).decode
        return wire.State(bases=[decode(row["base"]) for row in rows])

    def add(self, name: str, by: str = "test", key: str = "", size: int = 0) -> wire.BaseModel:
        """One change with one event; ``size`` bytes of ballast in it."""
        base = wire.BaseModel(
            name=name, path="p" * size, family="sd1", resolution=64, size=size, problem=""
        )
        with self.store.change(by) as change:
            change.execute(
                "INSERT INTO bases VALUES (?1, ?2) ON CONFLICT DO UPDATE SET base = ?2",
                (name, wire.encoder.encode(base)),
            )
            change.emit(wire.BaseChanged(base=base))
            self.store.remember(change, key, base)
        self.effects += 1
        return base

    async def _wait(self) -> None:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _add(self, context: Context, request: wire.AddBase) -> wire.BaseModel:
        if request.path == "wait":
            await self._wait()
        key = "" if request.path == "forget" else context.key
        return self.add(request.name, context.by, key)

    async def _inspect(self, context: Context, request: wire.InspectLora) -> wire.LoraInfo:
        size = 0
        if request.lora == "crash":
            raise ZeroDivisionError("a secret of the implementation")
        if request.lora == "wait":
            await self._wait()
        elif request.lora == "steps":
            for step in range(1, 1001):
                context.progress(step, 1000, "counting")
        elif request.lora.startswith("big:"):
            size = int(request.lora[4:])
        elif request.lora != "small":
            raise LoraError(Code.NOT_FOUND, f"There is no LoRA {request.lora}.")
        return wire.LoraInfo(
            path="p" * size, size=size, dialect="kohya", rank=[], alpha=[], modules={},
            base_version="", title="", trigger="", steps=0, epochs=0, sha256="", metadata={},
        )  # fmt: skip

    async def _state(self, _: Context, __: wire.GetState) -> wire.State:
        return self.state()


class Raw:
    """A DEALER without manners: no reader, no heartbeat."""

    def __init__(self, endpoint: str, **options: int) -> None:
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name.upper()), value)
        self.socket.connect(endpoint)

    async def say(self, message: wire.ClientMessage) -> None:
        await self.socket.send_multipart(wire.pack(message))

    async def hear(self) -> wire.DaemonMessage:
        """The next message."""
        async with asyncio.timeout(WITHIN):
            message, _ = wire.unpack_daemon(await self.socket.recv_multipart())
        return message

    async def hello(self, **fields: Any) -> wire.DaemonMessage:
        await self.say(wire.Hello(**{"protocol": wire.PROTOCOL, "client": "raw"} | fields))
        return await self.hear()

    def close(self) -> None:
        self._context.destroy(linger=0)
