"""Entries of the latents cache in order, while other threads read what comes next.

Reading a picture and resizing it takes a processor as long as encoding it takes a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch

from lora_daemon.engine.cache import LatentsCache, Moments, Seen
from lora_daemon.engine.versions import PLAIN, Version
from lora_daemon.pipe import FrozenPicture

_THREADS = 8  # at most
_AHEAD = 3  # pictures a thread that may wait for their turn


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
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as several:
        coming: deque[Future[Moments | Seen]] = deque()
        try:
            for number, one in enumerate(wanted):
                while len(coming) <= threads * _AHEAD and number + len(coming) < len(wanted):
                    coming.append(several.submit(_there, cache, wanted[number + len(coming)]))
                yield partial(_entry, cache, one, coming.popleft())
        finally:
            for waiting in coming:
                waiting.cancel()


def _there(cache: LatentsCache, one: Wanted) -> Moments | Seen:
    return cache.find(one.key, cache.size(one.picture)) or cache.read(one.picture, one.version)


def _entry(cache: LatentsCache, one: Wanted, coming: Future[Moments | Seen]) -> Moments:
    there = coming.result()
    return there if isinstance(there, Moments) else cache.make(one.key, one.picture, there)
