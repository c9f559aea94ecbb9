"""Randomness counted, not consumed: every draw follows from a seed and the numbers that name it.

There is no stream to lose. A run taken up again, or one that painted fifty pictures meanwhile,
draws at step 1000 what an unbroken run draws there.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *numbers: int | str) -> torch.Generator:
    """A fresh CPU generator for one draw, such as ``generator(42, "sample", step, slot)``."""
    name = "\0".join(map(str, (seed, purpose, *numbers))).encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def shuffled(count: int, seed: int, epoch: int, what: str = "order") -> list[int]:
    """The order of ``count`` samples, or of ``what`` else, in an epoch: another one each epoch,
    always the same one."""
    order: list[int] = torch.randperm(count, generator=generator(seed, what, epoch)).tolist()
    return order
