"""Review's other half: the desk that writes, conflicts settled, drafts offered again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from lora_tui.core.desk import Conflicted, Desk, Report
from lora_tui.core.drafts import Draft, Drafts, state_dir
from lora_tui.screens.conflict import Conflict, Decision, merged
from lora_tui.screens.recover import Recover
from shared import wire
from shared.errors import LoraError
from shared.wire import CaptionState, Item

if TYPE_CHECKING:
    from lora_tui.screens.base import Place as _Base
else:
    _Base = object


class Mending(_Base):
    """Mixed into Review. Nothing here touches a widget."""

    _desk: Desk | None = None
    _asking: list[Conflicted]
    _offered: bool = False

    # ── the desk ────────────────────────────────────────────────────────────────────────────────

    @property
    def desk(self) -> Desk:
        """Made when first needed: its drafts belong to the daemon we are attached to."""
        if self._desk is None:
            self._asking = []
            drafts = Drafts(state_dir() / "drafts", self.lora.daemon_id)

            async def call(request: wire.ChangeCaption, key: str) -> Item:
                return await self.lora.ask(request, key=key)

            self._desk = Desk(call, drafts, self._heard)
        return self._desk

    def _heard(self, report: Report) -> None:
        from lora_tui.screens.review import Review

        self.post_message(Review.Reported(report))

    def desk_submit(
        self,
        item: Item,
        *,
        text: str | None = None,
        state: CaptionState | None = None,
        if_rev: int | None = None,
    ) -> Item:
        shown = self.desk.submit(item, text=text, state=state, if_rev=if_rev)
        if self.desk.drafts.problem:
            self.notify(self.desk.drafts.problem, severity="warning", timeout=10)
        return shown

    def desk_typing(self, item: Item, text: str, rev: int) -> None:
        self.desk.typing(item, text, rev)

    def desk_pending(self, item: Item) -> bool:
        return self._desk is not None and self._desk.pending(item)

    def desk_forget(self, item: Item) -> None:
        if self._desk is not None:
            self._desk.forget(item)

    def desk_link_back(self) -> None:
        if self._desk is not None:
            self._desk.link_back()

    def desk_keep(self) -> None:
        if self._desk is not None:
            self._desk.keep_unsent()

    async def desk_settled(self) -> None:
        if self._desk is not None:
            await self._desk.settled()

    async def desk_leave(self) -> None:
        """Send what can be sent within two seconds; the rest is on disk."""
        if self._desk is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._desk.settled()
            self._desk.keep_unsent()

    # ── conflicts ───────────────────────────────────────────────────────────────────────────────

    def settle(self, conflict: Conflicted) -> None:
        """Ask about one conflict after the other."""
        self._asking.append(conflict)
        if len(self._asking) == 1:
            self._ask_next()

    def _ask_next(self) -> None:
        conflict = self._asking[0]

        def decided(decision: Decision | None) -> None:
            self._asking.pop(0)
            self._decide(conflict, decision or "later")
            if self._asking:
                self._ask_next()

        self.app.push_screen(Conflict(conflict), decided)

    def _decide(self, conflict: Conflicted, decision: Decision) -> None:
        from msgspec.structs import replace

        draft, current = conflict.draft, conflict.current
        item = replace(conflict.item, caption=current)
        if decision == "mine":
            shown = self.desk_submit(item, text=draft.text, state=draft.state)
            self.took(shown)
        elif decision == "theirs":
            self.desk.drafts.remove(item.dataset, item.id)
            self.took(item)
        elif decision == "merge":
            self.took(item)
            mine = draft.text if draft.text is not None else conflict.item.caption.text
            self.merge(item, merged(mine, current.text), current.rev)
        else:
            self.took(item)
            self.notify(f"{item.name}: your text is kept as a draft; r brings it back.")

    def took(self, item: Item) -> None:
        """Show how the caption stands now."""
        raise NotImplementedError

    def merge(self, item: Item, text: str, rev: int) -> None:
        """Edit a text made of both."""
        raise NotImplementedError

    # ── drafts ──────────────────────────────────────────────────────────────────────────────────

    def offer_drafts(self, *, again: bool = False) -> bool:
        """Ask about drafts that were left behind, once; ``again``: also those put off."""
        if self.lora.connection is None or (self._offered and not again):
            return False
        self._offered = True
        drafts = self.desk.drafts.left_behind()
        if again:
            drafts += [d for d in self.desk.drafts.own() if not self._under_way(d)]
        if not drafts:
            return False

        def decided(decision: Any) -> None:
            if decision == "save":
                for draft in drafts:
                    self.attempt(self._recover(draft), group="recover")
            elif decision == "discard":
                for draft in drafts:
                    self.desk.drafts.remove(draft.dataset, draft.item)

        self.app.push_screen(Recover(drafts), decided)
        return True

    def _under_way(self, draft: Draft) -> bool:
        return (draft.dataset, draft.item) in self.desk.places()

    async def _recover(self, draft: Draft) -> None:
        try:
            item = await self.lora.ask(wire.GetItem(dataset=draft.dataset, item=draft.item))
        except LoraError as error:
            raise LoraError(
                error.code, f"{draft.name}: {error.message} The text stays in its draft."
            ) from None
        self.desk.recover(item, draft)
