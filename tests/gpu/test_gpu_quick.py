"""What is computed in few kernels is what torch computes in many."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from lora_daemon.engine import bases, quick
from lora_daemon.engine.ahead import Wanted, entries
from lora_daemon.engine.cache import LatentsCache
from tests.engine import worker_process as work

pytestmark = pytest.mark.gpu

NEAR = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other).norm() / other.norm())


def both(act: Any, exact: Any, x: Tensor) -> tuple[float, float]:
    """How far outputs and gradients of two are apart; the other one computes in float64."""
    x = x.requires_grad_()
    out = act(x)
    into = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, into)
    large = x.detach().double().requires_grad_()
    expected = exact(large)
    (wanted,) = torch.autograd.grad(expected, large, into.double())
    return apart(out, expected), apart(gradient, wanted)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 320, 64, 64), 32), ((2, 960, 8, 12), 32), ((3, 2560, 8, 8), 32), ((1, 128, 512, 512), 32),
     ((1, 6, 1, 1), 3), ((2, 64, 5, 7), 8)],
)  # fmt: skip
def test_a_norm_and_its_gradient(
    cuda: torch.device, shape: tuple[int, ...], groups: int, silu: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, shape[1], eps=1e-6).to(cuda, dtype).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()

    def exact(x: Tensor) -> Tensor:
        out = F.group_norm(x, groups, norm.weight.double(), norm.bias.double(), norm.eps)
        return F.silu(out) if silu else out

    x = (torch.randn(shape, device=cuda) * 2 + 5).to(dtype)  # far from zero; and not channels_last
    far = both(lambda one: quick.normed(norm, one, silu=silu), exact, x)
    assert max(far) < NEAR[dtype]
    last = x.detach().contiguous(memory_format=torch.channels_last)
    assert quick.normed(norm, last, silu=silu).stride() == last.stride()


@pytest.mark.parametrize("dtype", NEAR)
def test_a_gated_unit_and_its_gradient(cuda: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    unit = GEGLU(40, 1300).to(cuda, dtype).requires_grad_(False)
    unit.proj = nn.Identity()
    x = torch.randn(2, 77, 2600, device=cuda).to(dtype)
    far = both(lambda one: quick.gated(unit, one), unit.forward, x)
    assert max(far) < NEAR[dtype]


def test_a_whole_denoiser_and_its_gradient(
    base_path: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learnt() -> tuple[Tensor, Tensor, Tensor]:
        base = bases.load(base_path, cuda, "fp32")
        torch.manual_seed(0)
        noisy = torch.randn(2, 4, 8, 8, device=cuda, requires_grad=True)
        text = base.encode_texts(["a dragon", "a cat"]).detach()
        predicted = base.denoise(noisy, torch.tensor([10, 900], device=cuda), text)
        predicted.square().mean().backward()  # type: ignore[no-untyped-call]
        assert noisy.grad is not None
        return predicted.detach(), noisy.grad, base.decode_latents(noisy.detach())

    quickly = learnt()
    monkeypatch.setattr(quick, "quicken", lambda network: None)
    for one, other in zip(quickly, learnt(), strict=True):
        assert apart(one, other.double()) < 2e-3  # decoding is in TF32


def test_without_triton_it_is_torch_s_own(
    base_path: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delattr("lora_daemon.engine.quick_kernels")
    monkeypatch.setitem(sys.modules, "lora_daemon.engine.quick_kernels", None)
    quick._kernels.cache_clear()
    base = bases.load(base_path, cuda, "fp32")
    quick._kernels.cache_clear()
    assert "Without kernels of our own" in capfd.readouterr().err
    assert not any("forward" in vars(module) for module in base.denoiser.modules())


def test_pictures_encoded_by_a_recording_are_those_that_are_encoded_one_by_one(
    base_path: Path, cuda: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases.load(base_path, cuda, "fp32")
    pictures = work.pictures(tmp_path / "pictures", 24)

    def cached(root: Path) -> list[Any]:
        cache = LatentsCache(root, base, 64)
        with closing(entries(cache, [Wanted(cache.key(one), one) for one in pictures])) as coming:
            return [entry() for entry in coming]

    recorded = cached(tmp_path / "one")
    monkeypatch.setenv("LORA_TUI_CUDA_GRAPHS", "0")
    for one, other in zip(recorded, cached(tmp_path / "other"), strict=True):
        for name in ("mean", "deviation", "mirrored_mean", "mirrored_deviation"):
            assert apart(getattr(one, name), getattr(other, name).double()) < 1e-3, name
