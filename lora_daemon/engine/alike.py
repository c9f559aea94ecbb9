"""LoRA files read a few modules at a time: those that are of one form in all of them, stacked.

A module costs some fifty calls of torch, whatever its size; so many together cost no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lora_daemon.engine.lora_read import finite, read_module, read_pair
from lora_daemon.engine.overlap import Stack
from lora_daemon.engine.parts import LowRank, low_rank
from shared import blocks
from shared.conflicts import Compared
from shared.errors import LoraError
from shared.lora_keys import Module, wrong
from shared.safetensors_file import Header

_BATCH = 2**20  # numbers read at once by a thread, where one module has no more

Form = tuple[tuple[str, tuple[int, ...]], ...]  # role and shape of each tensor of a module


@dataclass
class Source:
    """A LoRA file: its modules by dotted path, and its weight in each block."""

    path: Path
    header: Header
    one: Compared
    factors: dict[str, float] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)

    def form(self, path: str) -> Form:
        """Of one module; empty where the file has none of that name."""
        if path not in self.modules:
            return ()
        tensors = sorted(self.modules[path].tensors.items())
        return tuple((role, self.header.tensors[name].shape) for role, name in tensors)

    def weight(self, block: str) -> float:
        use = self.one.use
        text = block.startswith("TE")
        whole = use.weight
        if text and (use.text_weight is not None or use.region is not None):
            whole = use.text_weight or 0.0  # words have no place, so a region leaves them alone
        return whole * self.factors.get(blocks.BASE if text else block, 1.0)


def batched(sources: Sequence[Source], every: Sequence[str]) -> Iterator[list[str]]:
    """Modules that the same LoRAs change in the same form, as many as are to be in memory at once.

    Together they cost a few calls instead of a few each, and most modules have many like them.
    """
    alike: dict[tuple[Form, ...], list[str]] = {}
    for path in every:
        alike.setdefault(tuple(source.form(path) for source in sources), []).append(path)
    for forms, paths in alike.items():
        size = sum(math.prod(shape) for form in forms for _, shape in form)
        most = max(1, _BATCH // max(1, size))
        yield from (paths[at : at + most] for at in range(0, len(paths), most))


def stacked(
    sources: Sequence[Source], there: Sequence[int], paths: Sequence[str], labels: Sequence[str]
) -> Stack:
    """What LoRAs add to modules of one form. Raises LoraError as ``lora_read.read_modules``."""
    read = [list(_pairs(sources[number], paths)) for number in there]
    firsts = [pairs[0][1] for pairs in read]
    _same_size([sources[number] for number in there], paths[0], firsts)
    ranks = [one.up.shape[1] for one in firsts]
    up = torch.empty(len(paths), len(firsts[0].up), sum(ranks))
    down = torch.empty(len(paths), sum(ranks), math.prod(firsts[0].shape[1:]))
    stack = Stack(there, ranks, _factors(sources, there, labels, read), up, down)
    for pairs, span in zip(read, stack.spans(), strict=True):
        for row, (_, pair) in enumerate(pairs):
            up[row, :, span] = pair.up
            down[row, span] = pair.down.flatten(1)
    if not (finite(stack.factors) and finite(up) and finite(down)):
        for number in there:
            list(_pairs(sources[number], paths, distrust=True))  # says which module it is
    return stack


def _factors(
    sources: Sequence[Source], there: Sequence[int], labels: Sequence[str],
    read: Sequence[Sequence[tuple[float, LowRank]]],
) -> Tensor:  # fmt: skip
    """Weight times scale, float64 (modules, LoRAs)."""
    columns = [
        [
            sources[number].weight(label) * scale
            for label, (scale, _) in zip(labels, pairs, strict=True)
        ]
        for number, pairs in zip(there, read, strict=True)
    ]
    return torch.tensor(columns, dtype=torch.float64).t()


def _pairs(
    source: Source, paths: Sequence[str], distrust: bool = False
) -> Iterator[tuple[float, LowRank]]:
    """Modules of a file as their scales and pairs. ``distrust``: look at each number."""
    try:
        with source.path.open("rb") as file:
            for path in paths:
                module = source.modules[path]
                if module.plain and not distrust:
                    yield read_pair(source.path, file, source.header, module)
                else:
                    one = read_module(source.path, file, source.header, module)
                    yield one.scale, low_rank(one.part)
    except OSError as error:
        raise LoraError.storage("read", source.path, error) from None


def _same_size(sources: Sequence[Source], path: str, pairs: Sequence[LowRank]) -> None:
    sizes = [(math.prod(pair.shape[1:]), len(pair.up)) for pair in pairs]
    for source, size in zip(sources, sizes, strict=True):
        if size != sizes[0]:
            raise wrong(
                source.path,
                f"and {sources[0].path} are for different bases: {path} is {size[0]} → {size[1]} "
                f"wide in the one, {sizes[0][0]} → {sizes[0][1]} in the other",
            )
