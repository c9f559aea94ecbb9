"""A base in 8 bits: what is computed, what is kept for going back, and who else sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_daemon import pipe
from lora_daemon.engine import bases, memory, quantized, relief
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.memory import Counted
from lora_daemon.engine.quantized import Weight8
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from shared.recipe import convert
from tests.engine import tiny_base
from tests.engine import worker_process as work
from tests.engine.test_options import ALL, trained
from tests.engine.test_options_resume import LeaveAt

CPU = torch.device("cpu")


def eight(path: Path, kind: str, precision: str = "fp32") -> Base:
    return bases.load(path, CPU, precision, quantize=kind)


def weights8(network: nn.Module) -> dict[str, Weight8]:
    return {key: one for key, one in network.named_parameters() if isinstance(one, Weight8)}


def of_step(base: Base) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, base.encoders[0].width)
    return noisy, torch.tensor([10, 700]), text.to(base.dtype)


@pytest.mark.parametrize(("kind", "error"), [("fp8", 0.03), ("int8", 0.012)])
def test_a_weight_is_as_near_as_its_format_allows(kind: str, error: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 32, 3, 3) * torch.logspace(-6, 3, 64).view(-1, 1, 1, 1)
    weight[5] = 0
    for dtype in (torch.float32, torch.bfloat16):
        one = Weight8.of(weight.to(dtype), kind)
        assert one.codes.element_size() == 1 and one.dtype == dtype and one.dense().dtype == dtype
        apart = (one.dense().float() - weight).flatten(1).norm(dim=1)
        norms = weight.flatten(1).norm(dim=1)
        assert bool((apart <= error * norms).all())  # each channel by its own scale
        assert not one.dense()[5].any()


def test_the_layers_of_the_blocks_are_kept_so_and_no_others(base_path: Path) -> None:
    unet = eight(base_path, "int8").unet
    whole = bases.load(base_path, CPU).unet
    kept = weights8(unet)
    assert {type(unet.get_submodule(key.removesuffix(".weight"))) for key in kept} == {
        nn.Linear, nn.Conv2d,
    }  # fmt: skip
    for key, parameter in whole.named_parameters():
        within = key.startswith(("down_blocks.", "mid_block.", "up_blocks."))
        assert (key in kept) == (within and key.endswith("weight") and parameter.dim() > 1), key
        if key not in kept:
            assert torch.equal(parameter, unet.get_parameter(key))
    with pytest.raises(TypeError, match="would write into a weight of 8 bits"):
        next(iter(kept.values())).mul_(2)


def test_text_encoders_are_kept_so_and_a_vae_is_not(tmp_path: Path) -> None:
    path = tiny_base.build_flux(tmp_path / "flux", blocks=1)
    flux = eight(path, "fp8")
    assert all(map(weights8, (flux.transformer, flux.text_encoder, flux.text_encoder_2)))
    assert not weights8(flux.vae)
    text, whole = flux.encode_text("a thing"), bases.load(path, CPU).encode_text("a thing")
    assert 0 < float((text - whole).norm() / whole.norm()) < 0.1


def test_the_gradient_is_that_of_the_weights_it_stands_for(base_path: Path) -> None:
    """Against the same weights made dense, in float64 throughout."""
    ours, dense = eight(base_path, "fp8"), bases.load(base_path, CPU)
    for key, one in weights8(ours.unet).items():
        dense.unet.get_parameter(key).data = one.dense()
    double = replace(dense, denoiser=dense.denoiser.double(), dtype=torch.float64)
    network = convert({"network": {"rank": 4, "targets": ALL}}).network
    found = []
    for base in (ours, double):
        adapter = Adapter(base, network, seed=0)
        try:
            generator = torch.Generator().manual_seed(1)
            for module in adapter.modules:
                module.up.normal_(std=0.05, generator=generator)
                if base is double:
                    for weight in module.weights.values():
                        weight.grad = None
                        weight.data = weight.data.double()
            out = base.denoise(*of_step(base))
            out.square().mean().backward()  # type: ignore[no-untyped-call]
            gradients = [w.grad for m in adapter.modules for w in m.weights.values()]
            found.append(torch.cat([g.flatten().double() for g in gradients if g is not None]))
        finally:
            adapter.remove()
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 1e-5
    assert len(found[0]) == len(found[1]) and float(found[1].norm()) > 1e-3


def _kept(base: Base) -> int:
    """Bytes that autograd keeps of a step beside the base's own."""
    kept: dict[int, int] = {}
    own = {one.data_ptr() for one in base.unet.parameters() if not isinstance(one, Weight8)}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network = convert({"network": {"rank": 4, "targets": ["to_q", "ff"]}}).network
    adapter = Adapter(base, network, seed=0)
    own.add(adapter.vector.untyped_storage().data_ptr())
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = base.denoise(*of_step(base))
        assert out.requires_grad
    finally:
        adapter.remove()
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_of_16_or_32_bits_is_kept_for_going_back(
    precision: str, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = eight(base_path, "int8", precision)
    kept = _kept(base)
    assert kept <= _kept(bases.load(base_path, CPU, precision))

    def plain(x: Tensor, weight: Weight8, *rest: Any) -> Tensor:
        return torch.nn.functional.conv2d(x, weight.dense(), *rest)

    monkeypatch.setattr(quantized, "_conv2d", plain)  # as it would be with autograd's own
    dense = [one.dense().nbytes for one in weights8(base.unet).values() if one.dim() == 4]
    assert _kept(base) > kept + 0.5 * sum(dense)


@pytest.mark.parametrize(
    "network",
    [
        {"targets": ALL, "dropout": 0.1, "rank_dropout": 0.1},
        {"kind": "dora"}, {"kind": "lokr"},
    ],
    ids=["lora", "dora", "lokr"],
)  # fmt: skip
def test_every_kind_of_adapter_trains_on_it(
    network: dict[str, Any], base_path: Path, tmp_path: Path
) -> None:
    base = eight(base_path, "fp8", "bf16")
    adapter = trained(base, tmp_path, 2, network=network, optimizer={"learning_rate": 1e-2})
    again = Adapter(base, convert({"network": network}).network, 0)
    again.remove()
    moved = (adapter.vector - again.vector).abs()
    assert bool(torch.isfinite(moved).all()) and float((moved > 0).float().mean()) > 0.3


def test_what_is_counted_is_what_is_held_and_it_is_offered(base_path: Path) -> None:
    recipe = convert({"base": {"quantize": "fp8"}, "network": {"rank": 4}})
    need = Counted(base_path).need(recipe, "bf16", 100)
    held, whole = memory.frozen(eight(base_path, "fp8", "bf16"))
    assert need.frozen == held < 0.8 * whole
    assert whole == memory.frozen(bases.load(base_path, CPU, "bf16"))[0]

    def names(**tree: Any) -> list[str]:
        return [one.sets[0] for one in relief.settings(convert(tree), "fp32", 512, CPU)]

    assert names().index("base.quantize=int8") < names().index("dataset.resolution=384")
    assert "base.quantize=int8" not in names(base={"quantize": "fp8"})


def test_a_run_has_it_to_itself(base_path: Path, tmp_path: Path) -> None:
    """Its samples and its file are made with it; pictures beside it and after it are not."""
    told: list[pipe.Report] = []
    studio = Studio(CPU, told.append, lambda job: False)
    order = work.prepare(
        tmp_path / "run", base_path, work.pictures(tmp_path / "pictures"),
        base={"quantize": "fp8"}, training={"max_steps": 2},
        sample={"prompts": ["a thing"], "steps": 2, "every_steps": 2, "every_epochs": 0,
                "at_first": False},
    )  # fmt: skip
    run(order, studio, LeaveAt(told, False), told.append)
    assert isinstance(told[-1], pipe.Finished), told[-1]
    (sample,) = (one for one in told if isinstance(one, pipe.SampleSaved))
    assert (tmp_path / "run" / sample.path).exists()
    (notice,) = (one.message for one in told if isinstance(one, pipe.Notice))
    assert notice.startswith("The base is kept in 8 bits (fp8)")
    _, metadata = work.content(order)
    assert metadata["lora_tui.quantize"] == "fp8" and metadata["ss_fp8_base"] == "True"

    host = studio.base(str(base_path), "auto", quantize="fp8")
    assert host.quantize == "fp8" and studio.base(str(base_path), "auto", None, "fp8") is host
    guest = studio.guest(str(base_path), host)
    assert guest.quantize == "none" and not weights8(guest.unet)
    after = studio.base(str(base_path))
    assert after.quantize == "none" and studio.guest(str(base_path), after) is after
