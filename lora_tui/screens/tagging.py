"""Review's tags: taken in hand one by one, typed with suggestions, given to all that are shown."""

from __future__ import annotations

from lora_tui.core.completion import news
from lora_tui.screens.many import Many
from lora_tui.widgets.chips import Chips
from lora_tui.widgets.suggestions import MOST, Suggestions
from lora_tui.widgets.tag_entry import TagEntry
from shared import wire
from shared.edits import KINDS
from shared.errors import LoraError

_EVERY = {"everywhere": "add-tag", "nowhere": "remove-tag"}


class Tagging(Many):
    """Mixed into Review."""

    _renaming = False  # whether the entry is for the tag under the cursor

    def edit(self, item: wire.Item, text: str, rev: int, *, tags: bool = False) -> None:
        """Put a text into the field, or its tags into the hand."""
        raise NotImplementedError

    def keep_typed(self) -> None:
        """What is in the field or in the tags goes to the disk soon."""
        raise NotImplementedError

    @property
    def entry(self) -> TagEntry:
        return self.query_one(TagEntry)

    @property
    def suggestions(self) -> Suggestions:
        return self.query_one(Suggestions)

    @property
    def typed_text(self) -> str:
        """The caption as leaving it now would save it."""
        return self.chips.text if self.chips.editing else self.field.text

    def leave_caption(self) -> None:
        """End editing, in whichever shape."""
        if self.entry.open:
            self._tag_typed(self.entry.value, False)
        self.chips.leave()
        self.field.leave()

    def action_tags(self) -> None:
        item = self.item
        if item is not None:
            self.edit(item, item.caption.text, item.caption.rev, tags=True)

    def action_shape(self) -> None:
        """As each reads, then all as tags, then all as text."""
        if not self._dataset or self._edited is not None:
            return
        shapes = self.lora.caption_shapes
        now = shapes.pop(self._dataset, None)
        if now is not False:
            shapes[self._dataset] = now is None
        said = {None: "as tags", True: "as text", False: "as tags or text, as each reads"}[now]
        self.notify(f"Captions are shown {said}.", timeout=2)
        if self.item is not None:
            self.show_caption(self.item.caption.text)

    # ── keys among the tags ─────────────────────────────────────────────────────────────────────

    def _chip_asked(self, name: str) -> None:
        tag = self.chips.row.current
        if name in _EVERY:
            if tag:
                self.chips.leave()
                self.attempt(self.edit_many((KINDS[_EVERY[name]], (tag,))), group="many")
            return
        self._renaming = name == "edit" and bool(tag)
        self._open_entry(tag if self._renaming else "")

    def _open_entry(self, text: str) -> None:
        self.chips.lent = True
        self.entry.begin(text, "another name; nothing: it goes" if text else "a tag to add")
        self.show_keys("entry")

    def _tag_typed(self, tag: str | None, more: bool) -> None:
        row = self.chips.row
        if tag is not None:
            if self._renaming:
                row.put(tag)
            else:
                row.add(tag)
            self.chips.changed()
        if more and tag is not None:
            self._renaming = False
            self._open_entry("")
            return
        self.set_focus(self.chips)
        self.entry.close()
        self.chips.lent = False
        self.show_keys("chips")

    def on_chips_changed(self, message: Chips.Changed) -> None:
        self.keep_typed()

    # ── suggestions ─────────────────────────────────────────────────────────────────────────────

    def on_suggestions_wanted(self, message: Suggestions.Wanted) -> None:
        dataset, text = self._dataset, message.text
        present = self.chips.row.tags if self.chips.editing else []

        async def look() -> None:
            ask = wire.GetTags(dataset=dataset, like=text, limit=MOST + len(present) + 1)
            try:
                found = await self.lora.ask(ask)
            except LoraError:  # no link: nothing is suggested
                return
            self.suggestions.offer(text, news(found.tags, text, present))

        self.run_worker(look, group="suggest", exclusive=True)  # type: ignore[arg-type]
