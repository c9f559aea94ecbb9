"""Entries of the latents cache in order, while other threads read what comes next.

Reading a picture and resizing it takes a processor as long as encoding it takes a GPU.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, Moments, Seen
from lora_daemon.engine.device import free_cache
from lora_daemon.engine.graphs import Record, recorder
from lora_daemon.engine.versions import PLAIN, Version
from lora_daemon.pipe import FrozenPicture

_THREADS = 8  # at most
_AHEAD = 3  # pictures a thread that may wait for their turn
_OFTEN = 16  # times that a size has come when it is worth recording
# Pixels (n, 3, h, w) to mean and deviation of their latents.
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


class Wanted(NamedTuple):
    """An entry, by its key, and what it is of."""

    key: str
    picture: FrozenPicture
    version: Version = PLAIN


def entries(
    cache: LatentsCache, wanted: Sequence[Wanted]
) -> Generator[Callable[[], Moments], None, None]:
    """For each what gives its entry, made if there is none; to be called before the next is asked
    for. It raises PictureError, LoraError(STORAGE)."""
    threads = max(1, min(_THREADS, torch.get_num_threads()))
    base = cache.base
    encoding = Encoding(base, recorder(base.device, search=False))
    with (
        closing(encoding),
        ThreadPoolExecutor(threads, thread_name_prefix="pictures") as several,
    ):
        coming: deque[Future[Moments | Seen]] = deque()
        try:
            for number, one in enumerate(wanted):
                while len(coming) <= threads * _AHEAD and number + len(coming) < len(wanted):
                    coming.append(several.submit(_there, cache, wanted[number + len(coming)]))
                yield partial(_entry, cache, encoding, one, coming.popleft())
        finally:
            for waiting in coming:
                waiting.cancel()


def _there(cache: LatentsCache, one: Wanted) -> Moments | Seen:
    return cache.find(one.key, cache.size(one.picture)) or cache.read(one.picture, one.version)


def _entry(
    cache: LatentsCache, encode: Encode, one: Wanted, coming: Future[Moments | Seen]
) -> Moments:  # fmt: skip
    there = coming.result()
    return there if isinstance(there, Moments) else cache.make(one.key, one.picture, there, encode)


class Encoding:
    """``Base.encode_pixels``, recorded for sizes that keep coming, until it is closed. What it
    returns holds until the next call."""

    def __init__(self, base: Base, record: Record | None) -> None:
        self._base, self._record = base, record
        self._met: Counter[Any] = Counter()
        self._known: dict[Any, tuple[Tensor, Callable[[], tuple[Tensor, Tensor]]]] = {}

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        size = pixels.shape
        self._met[size] += 1
        if self._record and self._met[size] == _OFTEN:
            own = pixels.to(self._base.device)
            if replay := self._record(lambda: self._base.encode_pixels(own)):
                self._known[size] = own, replay
        if size not in self._known:
            return self._base.encode_pixels(pixels)
        own, replay = self._known[size]
        own.copy_(pixels)
        return replay()

    def close(self) -> None:
        if self._known:
            self._known.clear()
            free_cache()
