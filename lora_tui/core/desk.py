"""Where captions are written: every change belongs to the picture it was made for, none is lost.

A change is kept as a draft until the daemon confirms it. Changes of one caption go one after the
other; those of different pictures do not wait for each other. Without a link they wait.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from lora_tui.core.drafts import Draft, Drafts
from shared.errors import Code, LoraError
from shared.wire import Caption, CaptionState, ChangeCaption, Item

Call = Callable[[ChangeCaption, str], Awaitable[Item]]


@dataclass(frozen=True)
class Saved:
    """The daemon has it."""

    item: Item


@dataclass(frozen=True)
class Conflicted:
    """Somebody else changed the caption first. Both texts are here; the draft is kept."""

    item: Item  # as it was when the change was made
    draft: Draft
    current: Caption


@dataclass(frozen=True)
class Refused:
    """The daemon said no, for good. A text stays in its draft."""

    item: Item
    draft: Draft
    error: LoraError


@dataclass(frozen=True)
class Waiting:
    """There is no link: the change is on disk and goes when the link is back."""

    item: Item


Report = Saved | Conflicted | Refused | Waiting
_LINK = (Code.UNREACHABLE, Code.BUSY)


class Desk:
    """The changes under way. ``call(request, key)`` sends one; ``report`` hears what came of it."""

    def __init__(self, call: Call, drafts: Drafts, report: Callable[[Report], None]) -> None:
        self._call = call
        self._report = report
        self.drafts = drafts
        self._queues: dict[tuple[str, str], deque[tuple[Item, Draft]]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def submit(
        self,
        item: Item,
        *,
        text: str | None = None,
        state: CaptionState | None = None,
        if_rev: int | None = None,
    ) -> Item:
        """Change the caption of ``item`` as it was seen, and return how it will look.

        ``if_rev``: the revision the person saw, where that is not the item's own.
        """
        rev = item.caption.rev if if_rev is None else if_rev
        draft = Draft(
            daemon=self.drafts.daemon,
            dataset=item.dataset,
            item=item.id,
            name=item.name,
            if_rev=rev,
            text=text,
            state=state,
            key=uuid.uuid4().hex,
            at=time.time(),
        )
        if text is not None:
            self.drafts.write(draft)
        self._send(item, draft)
        becomes = state or ("edited" if text is not None else item.caption.state)
        return replace(
            item,
            caption=replace(
                item.caption,
                text=item.caption.text if text is None else text,
                state=becomes,
            ),
        )

    def typing(self, item: Item, text: str, if_rev: int) -> None:
        """Keep what is in the field just now, in case this client does not live to send it."""
        self.drafts.write(
            Draft(
                daemon=self.drafts.daemon,
                dataset=item.dataset,
                item=item.id,
                name=item.name,
                if_rev=if_rev,
                text=text,
                at=time.time(),
            )
        )

    def recover(self, item: Item, draft: Draft) -> None:
        """Send a draft that was left behind, against the revision it was written on."""
        draft = replace(draft, key=draft.key or uuid.uuid4().hex)
        self.drafts.write(draft)
        self._send(item, draft)

    def forget(self, item: Item) -> None:
        """The person gave the text up."""
        if not self._queues.get((item.dataset, item.id)):
            self.drafts.remove(item.dataset, item.id)

    @property
    def unsent(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def pending(self, item: Item) -> bool:
        return bool(self._queues.get((item.dataset, item.id)))

    def places(self) -> set[tuple[str, str]]:
        """(dataset, item) of every caption with a change under way."""
        return set(self._queues)

    def link_back(self) -> None:
        """Send what waits."""
        for place in list(self._queues):
            self._start(place)

    async def settled(self) -> None:
        """Wait until nothing is under way; what waits for a link does not count."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def keep_unsent(self) -> None:
        """Write every unsent change to disk: this client is about to leave."""
        for queue in self._queues.values():
            merged: Draft | None = None
            for _, draft in queue:
                merged = draft if merged is None else _after(merged, draft)
            if merged is not None:
                self.drafts.write(merged)

    def _send(self, item: Item, draft: Draft) -> None:
        place = (item.dataset, item.id)
        self._queues.setdefault(place, deque()).append((item, draft))
        self._start(place)

    def _start(self, place: tuple[str, str]) -> None:
        if place in self._tasks or not self._queues.get(place):
            return
        self._tasks[place] = asyncio.get_running_loop().create_task(self._work(place))

    async def _work(self, place: tuple[str, str]) -> None:
        try:
            await self._work_off(self._queues[place])
        finally:  # in one step with finding the queue empty: a change made now starts a new task
            del self._tasks[place]
            if not self._queues[place]:
                del self._queues[place]

    async def _work_off(self, queue: deque[tuple[Item, Draft]]) -> None:
        seen: dict[int, int] = {}  # revision a change was made on → revision of our own after it
        while queue:
            item, draft = queue[0]
            rev = seen.get(draft.if_rev, draft.if_rev)
            request = ChangeCaption(
                dataset=item.dataset, item=item.id, if_rev=rev, text=draft.text, state=draft.state
            )
            try:
                answer = await self._call(request, draft.key)
            except LoraError as error:
                if error.code in _LINK:
                    self.keep_unsent()
                    self._report(Waiting(item))
                    return
                queue.popleft()
                while queue and error.code is Code.CONFLICT:  # decided together, asked once
                    draft = _after(draft, queue.popleft()[1])
                self._failed(item, draft, error)
                continue
            queue.popleft()
            seen[draft.if_rev] = seen[rev] = answer.caption.rev
            if not any(later.text is not None for _, later in queue):
                self.drafts.remove(item.dataset, item.id)
            self._report(Saved(answer))

    def _failed(self, item: Item, draft: Draft, error: LoraError) -> None:
        current = _current(error)
        if error.code is not Code.CONFLICT or current is None:
            if draft.text is None:
                self.drafts.remove(item.dataset, item.id)
            self._report(Refused(item, draft, error))
            return
        same_text = draft.text is None or draft.text == current.text
        same_state = draft.state is None or draft.state == current.state
        if same_text and same_state:  # both people did the same
            self.drafts.remove(item.dataset, item.id)
            self._report(Saved(replace(item, caption=current)))
            return
        self.drafts.write(draft)
        self._report(Conflicted(item, draft, current))


def _after(first: Draft, second: Draft) -> Draft:
    """One draft that does what both do; its key is new, as it is another request."""
    return replace(
        first,
        text=first.text if second.text is None else second.text,
        state=first.state if second.state is None else second.state,
        key=uuid.uuid4().hex,
        at=second.at,
    )


def _current(error: LoraError) -> Caption | None:
    try:
        return msgspec.convert(error.data.get("current"), Caption)
    except msgspec.ValidationError:
        return None
