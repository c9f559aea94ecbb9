"""The singular values of LoRA files against a dense decomposition, and what is said of them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_daemon.engine.lora_read import read_modules
from lora_daemon.engine.spectrum import spectrum
from shared import lora_cards
from shared.errors import Failure, LoraError
from shared.lora_cards import Spectrum, SpectrumOrder
from shared.lora_keys import contents
from shared.safetensors_file import read_header

KEYS = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
MIDDLE = "lora_unet_mid_block_attentions_0_proj_in"


def _every_kind(path: Path) -> Path:
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    save_file(
        {
            f"{KEYS}.lora_down.weight": normal(6, 40), f"{KEYS}.lora_up.weight": normal(24, 6),
            f"{KEYS}.alpha": torch.tensor(-3.0),
            f"{CONV}.lora_down.weight": normal(4, 12, 3, 3),
            f"{CONV}.lora_up.weight": normal(16, 4, 1, 1),
            f"{TEXT}.hada_w1_a": normal(40, 2), f"{TEXT}.hada_w1_b": normal(2, 30),
            f"{TEXT}.hada_w2_a": normal(40, 2), f"{TEXT}.hada_w2_b": normal(2, 30),
            f"{TEXT}.alpha": torch.tensor(1.0),
            f"{MIDDLE}.lokr_w1": normal(4, 4), f"{MIDDLE}.lokr_w2": normal(5, 6),
        },
        path,
    )  # fmt: skip
    return path


def test_singular_values_are_those_of_the_dense_matrix(tmp_path: Path) -> None:
    path = _every_kind(tmp_path / "every.safetensors")
    header = read_header(path)
    dense = {
        one.module.name: torch.linalg.svdvals(
            (one.part.dense().double() * one.scale).flatten(1)
        )
        for one in read_modules(path, header, contents(path, header))
    }  # fmt: skip
    found = {one.block: one for one in spectrum(path, threads=2).modules}
    assert list(found) == ["TE1", "IN01", "M00", "OUT05"]
    for block, name in zip(found, (TEXT, CONV, MIDDLE, KEYS), strict=True):
        values = torch.tensor(found[block].values, dtype=torch.float64)
        assert len(values) == {TEXT: 4, CONV: 4, MIDDLE: 20, KEYS: 6}[name]
        # rounding of the factors' products to float32, which the dense matrix has had and ours not
        torch.testing.assert_close(values, dense[name][: len(values)], rtol=1e-5, atol=1e-5)
        assert float(dense[name][len(values) :].sum()) < 1e-4 * float(values.sum())


def test_a_plain_pair_is_exact_in_double_precision(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(5)
    down, up = torch.randn(8, 50, generator=draw), torch.randn(30, 8, generator=draw)
    path = tmp_path / "pair.safetensors"
    save_file({f"{KEYS}.lora_down.weight": down, f"{KEYS}.lora_up.weight": up}, path)
    (one,) = spectrum(path).modules
    dense = torch.linalg.svdvals(up.double() @ down.double())
    torch.testing.assert_close(torch.tensor(one.values, dtype=torch.float64), dense[:8], rtol=1e-12,
                               atol=1e-12)  # fmt: skip


def _of_values(path: Path, values: list[float]) -> Path:
    """A LoRA whose one module has these singular values, given as two orthonormal factors."""
    draw = torch.Generator().manual_seed(7)
    rank = len(values)
    left = torch.linalg.qr(torch.randn(40, rank, generator=draw)).Q
    right = torch.linalg.qr(torch.randn(48, rank, generator=draw)).Q
    up = left * torch.tensor(values)
    save_file(
        {
            f"{KEYS}.lora_up.weight": up.contiguous(),
            f"{KEYS}.lora_down.weight": right.t().contiguous(),
        },
        path,
    )
    return path


def test_a_rank_that_is_not_used_is_told_with_what_cutting_it_costs(tmp_path: Path) -> None:
    found = spectrum(_of_values(tmp_path / "few.safetensors", [3.0, 2.0, *[0.01] * 14]))
    shares = [value / 5.14 for value in [3.0, 2.0, *[0.01] * 14]]
    entropy = -sum(share * math.log(share) for share in shares)
    assert found.effective == pytest.approx(math.exp(entropy), rel=1e-4) and found.rank == 16
    assert found.losses[0] == pytest.approx(math.sqrt(4.0014 / 13.0014), rel=1e-4)
    assert found.enough == 2 and found.losses[-1] == pytest.approx(0, abs=1e-6)
    told = lora_cards.advice("dragons", found)
    assert "Rank 2 would do" in told and "lora resize dragons --rank 2" in told
    used = spectrum(_of_values(tmp_path / "all.safetensors", [1.0] * 16))
    assert used.effective == pytest.approx(16, rel=1e-4) and not lora_cards.advice("x", used)


def test_a_lora_of_zeros_says_so(tmp_path: Path) -> None:
    found = spectrum(_of_values(tmp_path / "nothing.safetensors", [0.0] * 4))
    assert found.effective == 0 and "adds nothing" in lora_cards.advice("x", found)


def test_a_diverged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = _of_values(tmp_path / "nan.safetensors", [float("nan"), 1.0])
    with pytest.raises(LoraError, match="not finite"):
        spectrum(path)


def test_the_process_answers_on_stdout(tmp_path: Path) -> None:
    path = _of_values(tmp_path / "one.safetensors", [2.0, 1.0])
    for asked, kind in ((path, Spectrum), (tmp_path / "none.safetensors", Failure)):
        told = subprocess.run(
            [sys.executable, "-m", "lora_daemon.engine.spectrum"],
            input=msgspec.json.encode(SpectrumOrder(path=str(asked))), capture_output=True,
            check=True,
        )  # fmt: skip
        msgspec.json.decode(told.stdout, type=kind)
