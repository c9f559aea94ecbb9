"""What the modules of a base are given, seen through LoRAs: C = E[x xᵀ], never formed.

All that LoRAs can know of the input's second moment C is Aᵢ C Aⱼᵀ = E[(Aᵢx)(Aⱼx)ᵀ]. A forward hook
adds up the products of the small vectors Ax, over prompts, steps and positions, so that a module
costs (Σr)² numbers, however wide its input. Beside the LoRAs stand a few random rows: what they and
a LoRA have in common is chance on these inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_daemon.engine.bases import Base
from lora_daemon.engine.effects import Check, along
from lora_daemon.engine.generate import conditioning
from lora_daemon.engine.lora_file import places
from lora_daemon.engine.lora_read import read_modules
from lora_daemon.engine.moments import CHANCE, Moments
from lora_daemon.engine.parts import LowRank, fitted, low_rank
from shared.errors import Code, LoraError
from shared.lora_keys import contents, wrong
from shared.lora_names import dotted, is_sdxl
from shared.pictures import PictureSpec
from shared.safetensors_file import read_header

WIDEST = 1024  # rows of one module, of all LoRAs together; beyond, it is left out


class _Watch:
    """One module's rows, and the sum over what it was given."""

    def __init__(self, target: nn.Module, rows: Tensor) -> None:
        self.target, self.rows = target, rows
        self.total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
        self.count = 0

    def look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, target = inputs[0], self.target
        if isinstance(target, nn.Conv2d):
            low = F.conv2d(x, self.rows, None, target.stride, target.padding, target.dilation)
            low = low.movedim(1, -1)
        else:
            low = F.linear(x, self.rows)
        low = low.reshape(-1, len(self.rows)).double()
        self.total += low.t() @ low
        self.count += len(low)


@torch.no_grad()
def measure(
    base: Base, loras: Sequence[Path], specs: Sequence[PictureSpec], check: Check
) -> Moments:  # fmt: skip
    """Watch the plain base paint ``specs`` and add up what the LoRAs' modules are given.

    DoRAs are left out, as they are where LoRAs are compared. Raises LoraError: NOT_FOUND, STORAGE,
    INVALID_FILE naming the file.
    """
    stacks: dict[str, tuple[nn.Module, list[Tensor]]] = {}
    for path in loras:
        for name, target, down in _downs(path, base):
            stacks.setdefault(name, (target, []))[1].append(down)
    watches, left_out = {}, []
    for name, (target, downs) in stacks.items():
        if sum(map(len, downs)) > WIDEST:
            left_out.append(name)
            continue
        weight: Any = target.weight
        rows = torch.cat([chance(name, weight.shape[1:]), *downs])
        watches[name] = _Watch(target, rows.to(device=weight.device, dtype=weight.dtype))
    if not watches:
        raise LoraError(Code.BAD_REQUEST, "None of these LoRAs' modules can be measured.")
    with _on(watches):
        for spec in specs:
            text = conditioning(base, [spec], guided=spec.cfg > 1)
            for _ in along(base, spec, text, check):
                pass
    means = {name: (one.total / max(one.count, 1)).float() for name, one in watches.items()}
    return Moments({name: mean.cpu() for name, mean in means.items()}, left_out)


def chance(name: str, shape: Sequence[int]) -> Tensor:
    """The random rows beside the LoRAs of a module, (CHANCE, in, *kernel): always the same."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return torch.randn(CHANCE, *shape, generator=torch.Generator().manual_seed(seed))


def _downs(path: Path, base: Base) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Dotted path, the module and A of each module of a file that the base has."""
    header = read_header(path)
    found = contents(path, header)
    known, sdxl = places(base), is_sdxl(header)
    for one in read_modules(path, header, found):
        name, place = dotted(one.module.name, sdxl=sdxl), known.get(one.module.name)
        if name is None or place is None or one.module.decomposed:
            continue
        target = getattr(base, place[0]).get_submodule(place[1])
        try:
            pair = fitted(low_rank(one.part), target.weight.shape)
        except (RuntimeError, ValueError):
            raise wrong(
                path, f"was made for another base: its {place[1]} is of another size"
            ) from None
        assert isinstance(pair, LowRank)
        yield name, target, pair.down


@contextlib.contextmanager
def _on(watches: Mapping[str, _Watch]) -> Iterator[None]:
    hooks = [one.target.register_forward_pre_hook(one.look) for one in watches.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
