"""Entries of the latents cache in order, while other threads read what comes next.

Reading a picture and resizing it takes a processor as long as encoding it takes a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from lora_daemon.engine.cache import LatentsCache, Moments, Seen
from lora_daemon.pipe import FrozenPicture

_THREADS = 8  # at most
_AHEAD = 3  # pictures a thread that may wait for their turn


def entries(
    cache: LatentsCache, wanted: Sequence[tuple[str, FrozenPicture]]
) -> Generator[Callable[[], Moments], None, None]:
    """For each key and picture what gives its entry, made if there is none; to be called before the
    next is asked for. It raises PictureError, LoraError(STORAGE)."""
    threads = max(1, min(_THREADS, torch.get_num_threads()))
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as several:
        coming: deque[Future[Moments | Seen]] = deque()
        try:
            for number, (key, picture) in enumerate(wanted):
                while len(coming) <= threads * _AHEAD and number + len(coming) < len(wanted):
                    coming.append(several.submit(_there, cache, *wanted[number + len(coming)]))
                yield partial(_entry, cache, key, picture, coming.popleft())
        finally:
            for one in coming:
                one.cancel()


def _there(cache: LatentsCache, key: str, picture: FrozenPicture) -> Moments | Seen:
    return cache.find(key, cache.size(picture)) or cache.read(picture)


def _entry(
    cache: LatentsCache, key: str, picture: FrozenPicture, coming: Future[Moments | Seen]
) -> Moments:  # fmt: skip
    there = coming.result()
    return there if isinstance(there, Moments) else cache.make(key, picture, there)
