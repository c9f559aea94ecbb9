"""Mixing on a GPU: the CPU's own tests on the device's base, in fp32; and in bf16 beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_daemon.engine import bases
from lora_daemon.engine.mix import Mix, Strength
from tests.engine.test_folded import (
    test_a_thousand_folded_changes_end_where_they_began,
    test_every_kind_folded_is_what_it_is_stacked,
    test_regions_stay_stacked,
)
from tests.engine.test_mix import (
    _error,
    _loras,
    _predict,
    test_a_bias_of_a_full_adapter_is_added_too,
    test_a_change_takes_effect_without_a_new_stack,
    test_a_mix_of_all_kinds_is_their_sum_in_any_order,
    test_a_thousand_changes_end_where_they_began,
    test_dora_has_its_norm_from_the_clean_base_at_weight_one,
    test_every_kind_is_the_dense_formula,
    test_the_text_encoder_has_its_own_weight,
    test_thirty_two_loras_at_once_and_one_of_them_twice,
    test_what_peft_trained_is_what_peft_computes,
)
from tests.engine.test_regions_mix import (
    test_every_place_has_its_own_weights,
    test_two_halves_are_the_whole,
)

pytestmark = pytest.mark.gpu


@torch.no_grad()
def test_in_the_precision_of_auto_a_mix_is_near_and_comes_back(
    device: torch.device, base_path: Path, on_cpu: bases.Base, tmp_path: Path
) -> None:
    base = bases.load(base_path, device)
    loras = _loras(base, tmp_path, 3)
    weights = [Strength(0.4), Strength(-0.3, text=0.1), Strength(0.6)]
    found = []
    for one in (base, on_cpu):
        mix, plain = Mix(one, loras), _predict_in(one)
        mix.set(weights)
        with mix.on():
            mixed = _predict_in(one)
            mix.set([Strength(w) for w in (0.1, 0.2, 0.3)])
            mix.set(weights)
            assert torch.equal(_predict_in(one), mixed)
        assert torch.equal(_predict_in(one), plain)
        found.append((mixed - plain).cpu())
    assert _error(*found) < 0.1


def _predict_in(base: bases.Base) -> torch.Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(base.device)
    text = base.encode_text("a thing").to(base.dtype)
    return base.denoise(noisy, torch.tensor([500], device=base.device), text)
