"""A LoRA made orthogonal to another: exactly the formula, and exactly out of the other's way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_daemon.engine import low_rank as algebra
from lora_daemon.engine import moments
from lora_daemon.engine.merge import merge
from shared.lora_orders import MergeOrder, Source

NAME = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
HIGH, WIDE = 14, 20


def draws(seed: int, rank: int, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A pair that shares half of its directions with another."""
    draw = torch.Generator().manual_seed(seed)
    up = torch.randn(HIGH, rank, generator=draw, dtype=torch.float64)
    down = torch.randn(rank, WIDE, generator=draw, dtype=torch.float64)
    return up, down if other is None else down + other[:1]


def moment() -> Tensor:
    root = torch.randn(WIDE, WIDE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    scales = torch.logspace(0, -2, WIDE, dtype=torch.float64)
    return (root * scales) @ (root * scales).t()


def test_it_is_the_dense_formula_and_out_of_the_way() -> None:
    (b2, a2), c = draws(2, 4), moment()
    b1, a1 = draws(1, 3, a2)
    made = algebra.beside((b1, a1), (b2, a2), a1 @ c @ a2.t(), a2 @ c @ a2.t())
    delta, wanted = made[0] @ made[1], b1 @ a1
    projector = c @ a2.t() @ torch.linalg.inv(a2 @ c @ a2.t()) @ a2
    dense = wanted - torch.linalg.qr(b2).Q @ torch.linalg.qr(b2).Q.t() @ wanted @ projector
    assert (delta - dense).norm() < 1e-6 * dense.norm()
    scale = (wanted @ c @ wanted.t()).trace().sqrt() * (
        b2 @ a2 @ c @ a2.t() @ b2.t()
    ).trace().sqrt()
    assert abs((delta @ c @ (b2 @ a2).t()).trace()) < 1e-6 * scale
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    other = b2 @ mixed @ a2  # anything else within its spaces
    assert abs((delta @ c @ other.t()).trace()) < 1e-5 * scale * mixed.norm()
    assert (delta - wanted).norm() > 0.05 * wanted.norm()  # there was something to take out


def _save(path: Path, up: Tensor, down: Tensor, alpha: float) -> Source:
    tensors = {f"{NAME}.lora_up.weight": up, f"{NAME}.lora_down.weight": down}
    tensors = {key: one.float() for key, one in tensors.items()}
    save_file(tensors | {f"{NAME}.alpha": torch.tensor(alpha)}, path)
    return Source(path=str(path))


@pytest.mark.parametrize("weighed", [False, True])
def test_a_file_is_made_of_it(tmp_path: Path, weighed: bool) -> None:
    b2, a2 = draws(2, 4)
    b1, a1 = draws(1, 3, a2)
    sources = [_save(tmp_path / "one.safetensors", b1, a1, 1.5),
               _save(tmp_path / "two.safetensors", b2, a2, 4.0)]  # fmt: skip
    c = moment() if weighed else torch.eye(WIDE, dtype=torch.float64)
    more = {}
    if weighed:  # measured with the two the other way round
        rows = torch.cat([torch.randn(moments.CHANCE, WIDE, dtype=torch.float64), a2, a1])
        path = tmp_path / "inputs.safetensors"
        moments.save(path, moments.Moments({DOTTED: rows @ c @ rows.t()}, []))
        more = {"inputs": str(path), "order": [1, 0]}
    out = tmp_path / "beside.safetensors"
    told = merge(MergeOrder(sources=sources, out=str(out), method="orthogonal", **more))
    assert told.error < 1e-6 and [one.rank for one in told.modules] == [7]
    made = load_file(out)
    up, down = (made[f"{NAME}.lora_{side}.weight"].double() for side in ("up", "down"))
    delta = up @ down * (float(made[f"{NAME}.alpha"]) / len(down))
    right = algebra.beside((b1 * 0.5, a1), (b2, a2), a1 @ c @ a2.t(), a2 @ c @ a2.t())
    assert (delta - right[0] @ right[1]).norm() < 1e-4 * delta.norm()
    size = (b1 @ a1 @ c).norm() * (b2 @ a2).norm()
    assert abs((delta @ c @ (b2 @ a2).t()).trace()) < 1e-4 * size


def test_where_the_other_has_no_part_nothing_changes(tmp_path: Path) -> None:
    b1, a1 = draws(1, 3)
    one = _save(tmp_path / "one.safetensors", b1, a1, 3.0)
    other = {"lora_unet_conv_in.lora_up.weight": torch.ones(4, 2),
             "lora_unet_conv_in.lora_down.weight": torch.ones(2, 5)}  # fmt: skip
    save_file(other, tmp_path / "two.safetensors")
    sources = [one, Source(path=str(tmp_path / "two.safetensors"))]
    out = tmp_path / "beside.safetensors"
    merge(MergeOrder(sources=sources, out=str(out), method="orthogonal"))
    made = load_file(out)
    assert {key.partition(".")[0] for key in made} == {NAME}
    assert torch.equal(made[f"{NAME}.lora_down.weight"], a1.float())
