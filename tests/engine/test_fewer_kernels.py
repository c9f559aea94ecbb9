"""What a GPU computes in few kernels, as far as no GPU is needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from lora_daemon.engine import quick
from lora_daemon.engine.ahead import _OFTEN, Encoding
from lora_daemon.engine.bases import Base

CPU = torch.device("cpu")


@pytest.mark.parametrize("linear", [False, True])
def test_a_map_keeps_its_layout_and_its_numbers(linear: bool) -> None:
    torch.manual_seed(0)
    block = Transformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, norm_num_groups=4,
        use_linear_projection=linear,
    ).eval()  # fmt: skip
    x = torch.randn(2, 16, 6, 4).contiguous(memory_format=torch.channels_last)
    expected = block(x, return_dict=False)[0]
    own = block._get_output_for_continuous_inputs

    def added(**given: Any) -> torch.Tensor:
        return quick.added(block, **given)

    assert tuple(own.__code__.co_varnames[1 : own.__code__.co_argcount]) == quick._LAST
    block._get_output_for_continuous_inputs = added
    found = block(x, return_dict=False)[0]
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_is_compiled_or_no_map_is_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, unit, x = nn.GroupNorm(2, 8), GEGLU(8, 4), torch.randn(2, 8, 3)
    norm.weight.data.normal_()
    assert torch.equal(quick.normed(norm, x, silu=False), norm(x))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    wide = torch.randn(2, 8, 3, 3)
    assert torch.equal(quick.normed(norm, wide, silu=True), F.silu(norm(wide)))
    rows = torch.randn(5, 8)
    assert torch.equal(quick.gated(unit, rows), unit(rows))


def test_on_a_cpu_nothing_is_replaced(base: Base, capfd: pytest.CaptureFixture[str]) -> None:
    quick.quicken(base.denoiser)
    assert not any("forward" in vars(module) for module in base.denoiser.modules())
    quick._kernels.cache_clear()
    assert quick._kernels(CPU) is None
    assert "Without kernels of our own" in capfd.readouterr().err


def test_a_size_that_keeps_coming_is_recorded(base: Base, tmp_path: Path) -> None:
    recorded = []

    def record(act: Any) -> Any:
        given = act()

        def replay() -> Any:
            for own, new in zip(given, act(), strict=True):
                own.copy_(new)
            return given

        recorded.append(given)
        return replay

    encoding = Encoding(base, record)
    for number in range(_OFTEN + 2):
        pixels = torch.full((1, 3, 64, 64), number / 32)
        found, expected = encoding(pixels), base.encode_pixels(pixels)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True)), number
        encoding(torch.zeros(1, 3, 32, 64 + 32 * (number % 2)))  # others come more seldom
    assert len(recorded) == 1
    encoding.close()
    assert encoding(pixels)[0] is not recorded[0][0]
