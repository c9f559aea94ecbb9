"""The pictures of a dataset in their order, loaded a page at a time, kept up with events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from shared.filters import parse, terms
from shared.wire import Caption, Item, Items, ListItems, Sort

PAGE = 200
Ask = Callable[[ListItems], Awaitable[Items]]


class Roll:
    """A list of items by place. Under a filter it is the list that the daemon found at first: a
    caption accepted a moment ago stays where it was, so that a pass never skips or repeats."""

    def __init__(self, ask: Ask, dataset: str, filter: str = "", sort: Sort | None = None) -> None:
        self.dataset = dataset
        self.filter = filter
        self.sort = sort
        self.total = 0
        self.opened = False
        self._ask = ask
        self._view = ""
        self._items: dict[str, Item] = {}
        self._order: dict[int, str] = {}  # place → id
        self._places: dict[str, int] = {}
        self._pages: set[int] = set()

    @property
    def view(self) -> str:
        """The daemon's name of the list, under a filter or in an order."""
        return self._view

    def at(self, place: int) -> Item | None:
        """The item at a place, if it is loaded."""
        id_ = self._order.get(place)
        return self._items.get(id_) if id_ is not None else None

    def get(self, id_: str) -> Item | None:
        return self._items.get(id_)

    def place(self, id_: str) -> int | None:
        return self._places.get(id_)

    def missing(self, first: int, last: int) -> bool:
        """Whether any page of places first…last is not loaded yet."""
        last = min(last, self.total - 1)
        if not self.opened:
            return True
        return any(page not in self._pages for page in range(first // PAGE, last // PAGE + 1))

    async def load(self, first: int, last: int) -> None:
        """Load the pages of places first…last. Raises LoraError."""
        last = min(last, self.total - 1) if self.opened else last
        for page in range(max(first, 0) // PAGE, max(last, 0) // PAGE + 1):
            if page in self._pages:
                continue
            if not self._take(page, await self._fetch(page)):
                break

    async def refresh(self, place: int) -> None:
        """Ask anew, many captions being others now, the page of ``place`` first. The list stands.

        Raises LoraError."""
        page = max(place, 0) // PAGE
        answer = await self._fetch(page)
        self._forget()
        self._take(page, answer)

    async def _fetch(self, page: int) -> Items:
        return await self._ask(
            ListItems(
                dataset=self.dataset, offset=page * PAGE, limit=PAGE, filter=self.filter,
                view=self._view, sort=self.sort,
            )
        )  # fmt: skip

    def _take(self, page: int, answer: Items) -> bool:
        """Whether there was anything on the page."""
        known = (self._view, self.total)
        if (self.filter or self.sort) and self.opened and (answer.view, answer.total) != known:
            self._forget()  # another list: the daemon is a new one, or pictures are gone
        self.opened = True
        self.total = answer.total
        self._view = answer.view
        self._pages.add(page)
        for number, item in enumerate(answer.items):
            self._put(page * PAGE + number, item)
        return bool(answer.items)

    def _forget(self) -> None:
        for known in (self._items, self._order, self._places, self._pages):
            known.clear()

    def _put(self, place: int, item: Item) -> None:
        self._order[place] = item.id
        self._places[item.id] = place
        self._items[item.id] = item

    def keep(self, item: Item) -> None:
        """Take over a newer state of an item that is loaded."""
        old = self._items.get(item.id)
        if old is not None and item.caption.rev >= old.caption.rev:
            self._items[item.id] = item

    def put_back(self, item: Item) -> None:
        """Take over an item whatever its revision: an optimistic change that came to nothing."""
        if item.id in self._items:
            self._items[item.id] = item

    def changed(self, id_: str, caption: Caption) -> Item | None:
        """Take over a caption from an event; the item if it is loaded and this is news."""
        item = self._items.get(id_)
        if item is None or caption.rev < item.caption.rev:
            return None
        item = replace(item, caption=caption)
        self._items[id_] = item
        return item

    async def locate(self, name: str, id_: str = "") -> int | None:
        """The place of a picture: the daemon says it of an order, and of duplicates, which stand
        side by side; else by halving, as the order is that of the names."""
        await self.load(0, 0)
        apart = any(term.field == "dup" for term in terms(parse(self.filter)))
        if self.sort is not None or apart:
            ask = ListItems(
                dataset=self.dataset, limit=0, filter=self.filter, view=self._view, sort=self.sort,
                at=id_,
            )  # fmt: skip
            answer = await self._ask(ask)
            return answer.place if answer.place >= 0 and answer.view == self._view else None
        low, high = 0, self.total
        while low < high:
            middle = (low + high) // 2
            await self.load(middle, middle)
            item = self.at(middle)
            if item is None:
                return None
            if item.name == name:
                return middle
            low, high = (middle + 1, high) if item.name < name else (low, middle)
        return None
