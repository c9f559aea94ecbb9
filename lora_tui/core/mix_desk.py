"""Where the live mix is turned: what this client wants is shown at once, and sent in order.

One change is under way at a time; turns made meanwhile go together in the next. What others change
comes in between: different values do not touch each other, the same one is theirs, and it is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from shared.errors import Code, LoraError
from shared.mixes import Clash, MixSpec, merged
from shared.wire import ChangeMix, Mix

Send = Callable[[ChangeMix], Awaitable[Mix]]


class MixDesk:
    """``moved`` is called when there is something else to show, ``refused`` when a change was not
    taken."""

    def __init__(
        self, send: Send, moved: Callable[[], object], refused: Callable[[LoraError], object]
    ) -> None:
        self._send, self._moved, self._refused = send, moved, refused
        self.mix = Mix(name="", spec=MixSpec(), rev=-1, by="", at=0.0)  # as the daemon has it
        self.spec = self.mix.spec  # as this client wants it
        self._base = self.spec  # what ``spec`` was made from
        self._work: asyncio.Task[None] | None = None

    def want(self, spec: MixSpec) -> None:
        """Change the mix to this."""
        if spec == self.spec:
            return
        self.spec = spec
        self._moved()
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._work_off())

    def take(self, mix: Mix, *, anew: bool = False) -> None:
        """The daemon's mix; ``anew``: it may be an older one than that known."""
        if mix.rev <= self.mix.rev and not anew:
            return
        self.mix = mix
        if self._work is None:  # else it is looked at with the answer, which may be this very one
            self._settle(self._base)

    async def done(self) -> None:
        """Wait until nothing is under way."""
        while self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)

    async def _work_off(self) -> None:
        try:
            while self.spec != self._base:
                sent = self.spec
                try:
                    answer = await self._send(ChangeMix(before=self._base, after=sent))
                except LoraError as error:
                    self._give_up(error)
                    continue
                if answer.rev > self.mix.rev:
                    self.mix = answer
                self._settle(sent)
        finally:
            self._work = None

    def _settle(self, before: MixSpec) -> None:
        """Go on from the daemon's mix, with what this client has changed since ``before``."""
        try:
            spec = merged(before, self.spec, self.mix.spec)
        except Clash as clash:
            self._refused(
                LoraError(Code.CONFLICT, f"{self.mix.by} has changed {clash.what} meanwhile.")
            )
            spec = self.mix.spec
        self._base = self.mix.spec
        self.spec = spec
        self._moved()

    def _give_up(self, error: LoraError) -> None:
        """A change was not taken: back to the daemon's mix, and say so."""
        try:
            current = msgspec.convert(error.data.get("current"), Mix)
        except msgspec.ValidationError:
            current = self.mix
        if current.rev > self.mix.rev:
            self.mix = current
        self.spec = self._base = self.mix.spec
        self._moved()
        self._refused(error)
