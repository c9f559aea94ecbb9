"""Mixes: the live one that every client turns, and those kept under a name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from lora_daemon import upscalers
from lora_daemon.library import Library
from lora_daemon.service import Context, Daemon
from shared import mixes, wire
from shared.errors import Code, LoraError, not_found
from shared.mixes import MixSpec

LIVE = ""  # the live mix's name
LONGEST = 80  # characters of a name

_mix = msgspec.msgpack.Decoder(wire.Mix).decode


class Mixing:
    """Answers ChangeMix, FlipMix, SaveMix and RemoveMix."""

    def __init__(self, daemon: Daemon, library: Library) -> None:
        self._store = daemon.store
        self._library = library
        self._upscalers = daemon.workspace.upscalers
        self.changed: Callable[[], None] = lambda: None  # called when the live mix is another

    def all(self) -> list[wire.Mix]:
        """The live one, then the saved in order of their names."""
        rows = self._store.query("SELECT mix FROM mixes WHERE name <> '' ORDER BY name")
        return [self.live(), *(_mix(row["mix"]) for row in rows)]

    def live(self) -> wire.Mix:
        """The mix that is painted. Before anybody has changed it, the first base and no LoRA."""
        rows = self._store.query("SELECT mix FROM mixes WHERE name = ''")
        if rows:
            return _mix(rows[0]["mix"])
        bases = [base.name for base in self._library.bases() if not base.problem]
        base = "starter" if "starter" in bases or not bases else bases[0]
        return wire.Mix(name=LIVE, spec=MixSpec(base=base), rev=0, by="", at=0.0)

    async def change(self, context: Context, request: wire.ChangeMix) -> wire.Mix:
        """Raises LoraError: CONFLICT, NOT_FOUND (base, upscaler, an added LoRA), INVALID_FILE
        (base), ALREADY_EXISTS (a LoRA twice), BAD_REQUEST (size)."""
        if request.after.base != request.before.base:
            await self._library.base(request.after.base)
        live = self.live()
        try:
            spec = mixes.merged(request.before, request.after, live.spec)
        except mixes.Clash as clash:
            raise _conflict(live, clash.what) from None
        self._check(live.spec, spec)
        if spec.second != live.spec.second:
            await asyncio.to_thread(upscalers.found, self._upscalers, mixes.picture(spec))
        if spec == live.spec:
            return live
        return self._put(context, replace(live, spec=spec))

    async def flip(self, context: Context, request: wire.FlipMix) -> wire.Mix:
        """Raises LoraError(CONFLICT)."""
        live = self.live()
        if request.if_rev != live.rev:
            raise _conflict(live, "the mix")
        side = "B" if live.side == "A" else "A"
        other = live.other or live.spec
        return self._put(context, replace(live, spec=other, other=live.spec, side=side))

    async def save(self, context: Context, request: wire.SaveMix) -> wire.Mix:
        """Raises LoraError(BAD_REQUEST) for a name that is none."""
        name = " ".join(request.name.split())
        if not name or len(name) > LONGEST or not name.isprintable():
            raise LoraError(Code.BAD_REQUEST, f"A mix has a name of 1 to {LONGEST} characters.")
        known = {mix.name: mix.rev for mix in self.all()}
        spec = self.live().spec
        mix = wire.Mix(name=name, spec=spec, rev=known.get(name, 0), by="", at=0.0)
        return self._put(context, mix)

    async def remove(self, context: Context, request: wire.RemoveMix) -> wire.Done:
        """Raises LoraError(NOT_FOUND)."""
        names = [mix.name for mix in self.all() if mix.name]
        if request.name not in names:
            raise not_found("mix", request.name, names)
        with self._store.change(context.by) as change:
            change.execute("DELETE FROM mixes WHERE name = ?", (request.name,))
            change.emit(wire.MixRemoved(name=request.name))
            self._store.remember(change, context.key, wire.Done())
        return wire.Done()

    def _put(self, context: Context, mix: wire.Mix) -> wire.Mix:
        mix = replace(mix, rev=mix.rev + 1, by=context.by, at=time.time())
        with self._store.change(context.by) as change:
            change.execute(
                "INSERT OR REPLACE INTO mixes (name, mix) VALUES (?, ?)",
                (mix.name, wire.encoder.encode(mix)),
            )
            change.emit(wire.MixChanged(mix=mix))
            self._store.remember(change, context.key, mix)
        if mix.name == LIVE:
            self.changed()
        return mix

    def _check(self, present: MixSpec, spec: MixSpec) -> None:
        """What is added must be there, and each LoRA once. One that went away while it was in the
        mix may stay: painting says so."""
        if len(spec.loras) > mixes.MOST:
            raise LoraError(Code.BAD_REQUEST, f"A mix has at most {mixes.MOST} LoRAs.")
        if spec.width % 8 or spec.height % 8:
            raise LoraError(Code.BAD_REQUEST, "A picture's sides are multiples of 8 pixels.")
        if spec.preview is not None and spec.preview != present.preview:
            self._library.lora(spec.preview.lora)
        known = {lora.lora for lora in present.loras}
        paths: dict[Path, str] = {}
        for lora in spec.loras:
            try:
                name, path = self._library.lora(lora.lora)
            except LoraError:
                if lora.lora in known:
                    continue
                raise
            real = Path(os.path.realpath(path))
            if not lora.begin < lora.end:
                raise LoraError(Code.BAD_REQUEST, f"{name} would take part in none of the steps.")
            if real in paths:
                raise LoraError(
                    Code.ALREADY_EXISTS,
                    f"{name} is in the mix already"
                    + (f", as {paths[real]}" if paths[real] != lora.lora else "")
                    + ". Change its weight instead.",
                )
            paths[real] = lora.lora


def _conflict(live: wire.Mix, what: str) -> LoraError:
    return LoraError(
        Code.CONFLICT,
        f"{live.by or 'Somebody'} has changed {what} meanwhile; yours was not taken.",
        data={"current": msgspec.to_builtins(live), "what": what},
    )
