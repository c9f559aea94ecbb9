"""A LoRA file's weights taken over by a module that is to be trained on from there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_daemon.engine.kinds import MAGNITUDE, row_norms
from lora_daemon.engine.mix import Placed
from lora_daemon.engine.parts import LowRank
from shared.errors import Code, LoraError

_SCALED = ("hada_w2_a", "lokr_w2", "lokr_w2_a")  # the factor that takes up another scale
_NAMES = {"lora": "plain one", "dora": "DoRA of rows", "loha": "LoHa", "lokr": "LoKr"}
_BAKE = "Bake it into a base with `lora-tui lora bake`, and train on that"


@torch.no_grad()
def take_over(
    kind: str, weights: Mapping[str, Tensor], scale: float, base: Tensor, start: Placed, where: str
) -> None:
    """Give a module of ``kind`` the values of a file's module, so that it does the same.

    ``weights``: by role, float32, overwritten. ``scale``: alpha / rank of the module. ``base``: the
    weight that is adapted. A LoRA of lower rank fills the first ranks; the others stay as they
    begin, without effect. Raises LoraError(INVALID_RECIPE) if it cannot.
    """
    if start.bias is not None:
        raise _misfit(where, f"changes a bias ({start.path}), which no adapter here does. {_BAKE}")
    if kind in ("lora", "dora"):
        _pair(kind, weights, scale, start, where)
        if kind == "dora":
            norms = start.magnitude
            if norms is None:  # a plain LoRA: the magnitudes that change nothing of it
                delta = scale * torch.tensordot(weights["up"].flatten(1), weights["down"], dims=1)
                norms = row_norms(base.double() + delta.reshape(base.shape).to(base.device))
            weights[MAGNITUDE].copy_(norms.reshape(weights[MAGNITUDE].shape))
        return
    shapes = {role: weight.numel() for role, weight in weights.items()}
    found = {role: start.factors[role].numel() for role in start.factors if role in shapes}
    surplus = {role for role in start.factors if role not in shapes and role != "alpha"}
    if found != shapes or surplus or start.magnitude is not None:
        raise _misfit(
            where,
            f"is of another kind or size at {start.path} than the {_NAMES[kind]} that is trained "
            "here. Set network.kind, rank, factor and decompose_both as it was made",
        )
    for role, weight in weights.items():
        weight.copy_(start.factors[role].reshape(weight.shape))
    taken = next(role for role in _SCALED if role in weights)
    weights[taken].mul_(start.scale / scale)


def _pair(
    kind: str, weights: Mapping[str, Tensor], scale: float, start: Placed, where: str
) -> None:
    down, up = weights["down"], weights["up"]
    part, rank = start.part, len(down)
    other = start.magnitude is not None and (kind == "lora" or start.columns)
    if not isinstance(part, LowRank) or other:
        raise _misfit(
            where,
            f"is more than a plain LoRA at {start.path}, and a {_NAMES[kind]} is trained here. "
            f"{_BAKE}",
        )
    if len(part.down) > rank:
        raise _misfit(
            where,
            f"has rank {len(part.down)} at {start.path}, and this recipe {rank}. Set network.rank "
            "(or network.conv_rank) to it, or make it smaller with `lora-tui lora resize`",
        )
    down[: len(part.down)] = part.down
    up.zero_()
    up[:, : len(part.down)] = part.up.reshape(len(up), -1, *up.shape[2:]) * (start.scale / scale)


def _misfit(where: str, why: str) -> LoraError:
    return LoraError(Code.INVALID_RECIPE, f"network.start: {where} {why}.")
