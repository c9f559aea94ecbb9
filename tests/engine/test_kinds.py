"""DoRA, LoHa and LoKr are trained as their formulas say, and other tools' files hold them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_daemon.engine import lora_file
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.lora_metadata import network_module
from lora_daemon.engine.merge import merge
from lora_daemon.engine.mix import applied
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.train import train
from shared.errors import Code, LoraError
from shared.lora_convert import convert as to_dialect
from shared.lora_orders import MergeOrder, Source
from shared.recipe import convert
from shared.safetensors_file import read_header
from tests.engine.test_options import ALL, adapted, trained
from tests.engine.test_train import Steps, fed

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "down_blocks.0.resnets.0.conv1"
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"kind": "dora", "rank": 4, "alpha": 2.0, "ranks": ["*conv*=2/3"]},
    "loha": {"kind": "loha", "rank": 3, "alpha": 6.0, "ranks": ["*conv*=2/1"]},
    "lokr": {"kind": "lokr", "rank": 2, "alpha": 4.0, "factor": 4},
    "lokr of factors": {"kind": "lokr", "rank": 1, "alpha": 2.0, "decompose_both": True},
    "lokr of whole matrices": {"kind": "lokr", "rank": 64, "alpha": 2.0},
}


def written(adapter: Adapter, path: Path, metadata: dict[str, str] | None = None) -> Path:
    tensors = {}
    for one in adapter.modules:
        tensors |= lora_file.module_tensors(one.name, one.weights, one.alpha)
    lora_file.write(path, tensors, metadata or {})
    return path


def dense(found: dict[str, Tensor], name: str, weight: Tensor) -> Tensor:
    """W' of a module, float64, from a file's tensors by each kind's formula."""
    own = {key.removeprefix(f"{name}."): t.double() for key, t in found.items() if name in key}
    if "lora_down.weight" in own:
        down, up = own["lora_down.weight"], own["lora_up.weight"].flatten(1)
        delta = (up @ down.flatten(1)).reshape(weight.shape) * float(own["alpha"]) / len(down)
        changed = weight.double() + delta
        norms = changed.flatten(1).norm(dim=1).reshape(own["dora_scale"].shape)
        return own["dora_scale"] * changed / norms
    if "hada_w1_a" in own:
        one, other = (own[f"hada_w{n}_a"] @ own[f"hada_w{n}_b"] for n in (1, 2))
        scale = float(own["alpha"]) / len(own["hada_w1_b"])
        return weight.double() + scale * (one * other).reshape(weight.shape)
    factored = [n for n in (2, 1) if f"lokr_w{n}" not in own]
    left, right = (
        own[f"lokr_w{n}_a"] @ own[f"lokr_w{n}_b"] if n in factored else own[f"lokr_w{n}"].flatten(1)
        for n in (1, 2)
    )
    scale = float(own["alpha"]) / len(own[f"lokr_w{factored[0]}_b"]) if factored else 1.0
    rows = [torch.cat([entry * right for entry in row], dim=1) for row in left]
    return weight.double() + scale * torch.cat(rows).reshape(weight.shape)


@pytest.mark.parametrize("name", KINDS)
def test_what_was_trained_is_the_formula_and_comes_back_from_the_file(
    base: Base, tmp_path: Path, name: str
) -> None:
    optimizer = {"learning_rate": 0.02, "text_encoder_rate": 0.02}
    recipe = convert({"network": {**KINDS[name], "targets": ALL}, "optimizer": optimizer})
    feed = fed(base, tmp_path, recipe, 2)
    (batch,) = feed.batches(0)
    text = batch.text.detach()

    @torch.no_grad()
    def seen() -> tuple[Tensor, Tensor]:
        return base.denoise(batch.latents, batch.timesteps, text), base.encode_text("a dragon")

    plain = seen()
    weights = {path: base.unet.get_submodule(path).weight for path in (LINEAR, CONV)}
    adapter = adapted(base, recipe)
    try:
        for before, begun in zip(plain, seen(), strict=True):
            assert torch.allclose(before, begun, atol=1e-5)  # no effect at first
        train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, Steps(3))  # type: ignore[arg-type]
        ours = seen()
        path = written(adapter, tmp_path / "l.safetensors")
        found = load_file(path)
        for place, weight in weights.items():
            layer = base.unet.get_submodule(place)
            linear = isinstance(layer.get_base_layer(), nn.Linear)
            x = torch.randn((5, weight.shape[1]) if linear else (2, weight.shape[1], 6, 6))
            with torch.no_grad():
                out = layer(x).double() - layer.get_base_layer().bias.view(
                    (-1,) if linear else (-1, 1, 1)
                )
            changed = dense(found, base.unet_names[place], weight)
            wanted = (
                F.linear(x.double(), changed)
                if linear
                else F.conv2d(x.double(), changed, padding=1)
            )
            assert torch.allclose(out, wanted, atol=1e-4), place
            assert not torch.allclose(changed, weight.double(), atol=1e-4), place
    finally:
        adapter.remove()
    loaded = lora_file.load(path, base)
    assert not loaded.unplaced and len(loaded.modules) == len(adapter.modules)
    with applied(base, [(loaded.modules, 1.0)]):
        again = seen()
    for one, other, before in zip(again, ours, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert not torch.allclose(other, before, atol=1e-3)
    for before, after in zip(plain, seen(), strict=True):
        assert torch.equal(before, after)  # and the base is as it was


def test_diffusers_reads_our_dora_as_we_do(base: Base, base_path: Path, tmp_path: Path) -> None:
    network = {"kind": "dora", "rank": 2, "targets": ["to_q", "conv"]}
    dora = written(
        trained(base, tmp_path, 2, network=network, optimizer={"learning_rate": 0.05}),
        tmp_path / "dora.safetensors",
    )
    to_dialect(dora, "diffusers", tmp_path / "d.safetensors")
    (batch,) = fed(base, tmp_path, convert({}), 2).batches(0)
    with torch.no_grad(), applied(base, [(lora_file.load(dora, base).modules, 1.0)]):
        ours = base.denoise(batch.latents, batch.timesteps, batch.text)
    unet = UNet2DConditionModel.from_pretrained(base_path / "unet").eval()
    header = read_header(tmp_path / "d.safetensors")
    config = json.loads(header.metadata["lora_adapter_metadata"])
    tensors = load_file(tmp_path / "d.safetensors")
    unet.load_lora_adapter(
        {key.removeprefix("unet."): value for key, value in tensors.items()}, prefix=None,
        metadata={key.removeprefix("unet."): value for key, value in config.items()},
    )  # fmt: skip
    with torch.no_grad():
        theirs = unet(batch.latents, batch.timesteps, batch.text).sample
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["loha", "lokr", "lokr of factors", "lokr of whole matrices"])
def test_peft_reads_our_loha_and_lokr_as_we_do(
    base: Base, base_path: Path, tmp_path: Path, name: str
) -> None:
    recipe = convert({"network": {**KINDS[name], "targets": ["to_q", "ff", "conv"]}})
    adapter = adapted(base, recipe)
    adapter.remove()
    adapter.vector.data.add_(0.02)
    _, args = network_module(recipe.network)
    path = written(adapter, tmp_path / "l.safetensors", {"ss_network_args": json.dumps(args)})
    to_dialect(path, "peft", tmp_path / "peft")
    (batch,) = fed(base, tmp_path, convert({}), 2).batches(0)
    seen = []
    for file in (path, tmp_path / "peft" / "adapter_model.safetensors"):
        weights = lora_file.load(file, base)
        with torch.no_grad(), applied(base, [(weights.modules, 1.0)]):
            seen.append(base.denoise(batch.latents, batch.timesteps, batch.text))
    unet = UNet2DConditionModel.from_pretrained(base_path / "unet").eval()
    inject_adapter_in_model(PeftConfig.from_pretrained(tmp_path / "peft"), unet)
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    tensors = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    result = set_peft_model_state_dict(unet, tensors)
    assert not result.unexpected_keys and len(tensors) > 3
    unet.eval()
    with torch.no_grad():
        seen.append(unet(batch.latents, batch.timesteps, batch.text).sample)
        plain = base.denoise(batch.latents, batch.timesteps, batch.text)
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert torch.allclose(seen[0], seen[2], atol=1e-4)
    assert not torch.allclose(seen[0], plain, atol=1e-3)


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_whole_modules_of_any_kind_are_left_out_in_training_alone(
    base: Base, tmp_path: Path, kind: str
) -> None:
    (batch,) = fed(base, tmp_path, convert({}), 2).batches(0)
    adapter = adapted(base, convert({"network": {"kind": kind, "module_dropout": 0.5}}))
    adapter.vector.data.add_(0.05)

    def seen(step: int) -> Tensor:
        adapter.dropout.begin(step)
        return base.denoise(batch.latents, batch.timesteps, batch.text).detach()

    try:
        with torch.no_grad():
            whole, also = seen(0), seen(1)
        assert torch.equal(whole, also)
        first, again, other = seen(1), seen(1), seen(2)
    finally:
        adapter.remove()
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-5)
    assert not torch.allclose(first, whole, atol=1e-5)


def test_a_dora_becomes_a_plain_lora_on_its_base(
    base: Base, base_path: Path, tmp_path: Path
) -> None:
    network = {"kind": "dora", "rank": 2, "targets": ["to_q", "conv"]}
    dora = written(
        trained(base, tmp_path, 2, network=network, optimizer={"learning_rate": 0.05}),
        tmp_path / "dora.safetensors",
    )
    out = tmp_path / "plain.safetensors"
    order = MergeOrder(
        sources=[Source(path=str(dora))], out=str(out), method="svd", rank=64, base=str(base_path)
    )
    assert merge(order).error < 1e-5
    (batch,) = fed(base, tmp_path, convert({}), 2).batches(0)
    seen = []
    for path in (dora, out):
        modules = lora_file.load(path, base).modules
        assert (modules[0].magnitude is None) == (path == out)
        with torch.no_grad(), applied(base, [(modules, 1.0)]):
            seen.append(base.denoise(batch.latents, batch.timesteps, batch.text))
    assert torch.allclose(*seen, atol=1e-4)
    with pytest.raises(LoraError, match="Say which with --base"):
        merge(msgspec.structs.replace(order, base=""))


def test_a_doras_magnitude_does_not_decay(base: Base) -> None:
    recipe = convert({"network": {"kind": "dora"}, "optimizer": {"weight_decay": 1.0}})
    adapter = adapted(base, recipe)
    adapter.remove()
    before = adapter.vector.data.clone()
    optimizer = optimizer_for(adapter, recipe.optimizer)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1.0, 0.0]
    optimizer.step()  # with no gradient
    module = adapter.modules[0]
    norms = base.unet.get_submodule(module.path).weight.norm(dim=1)
    assert torch.allclose(module.weights["magnitude"].data.flatten(), norms, atol=1e-6)
    assert not torch.equal(adapter.vector.data, before)


@pytest.mark.parametrize("name", ["dora", "loha", "lokr"])
def test_training_goes_on_from_a_file_of_the_same_kind(
    base: Base, tmp_path: Path, name: str
) -> None:
    network = KINDS[name] | {"ranks": []}
    source = trained(base, tmp_path, 2, network=network, optimizer={"learning_rate": 0.02})
    path = written(source, tmp_path / "start.safetensors")
    weights = lora_file.load(path, base)
    adapter = adapted(base, convert({"network": network | {"alpha": 8.0}}))
    adapter.begin_from(weights.modules, "start")
    adapter.remove()
    back = lora_file.load(written(adapter, tmp_path / "again.safetensors"), base)
    for one, other in zip(back.modules, weights.modules, strict=True):
        ours, theirs = (module.scale * module.part.dense() for module in (one, other))
        assert torch.allclose(ours, theirs, atol=1e-6) and bool(theirs.any())
        if one.magnitude is not None and other.magnitude is not None:
            assert torch.equal(one.magnitude, other.magnitude)
    other = {"dora": "lora", "loha": "lokr", "lokr": "loha"}[name]
    plain = adapted(base, convert({"network": {"kind": other}}))
    try:
        with pytest.raises(
            LoraError, match=r"more than a plain LoRA|another kind or size"
        ) as caught:
            plain.begin_from(weights.modules, "start")
        assert caught.value.code is Code.INVALID_RECIPE
    finally:
        plain.remove()


def test_a_lora_of_lower_rank_and_a_plain_one_for_a_dora_are_begun_from_as_they_are(
    base: Base, tmp_path: Path
) -> None:
    source = trained(
        base, tmp_path, 2, network={"rank": 2, "alpha": 1.0}, optimizer={"learning_rate": 0.02}
    )
    weights = lora_file.load(written(source, tmp_path / "start.safetensors"), base)
    feed = fed(base, tmp_path, convert({}), 2)
    (batch,) = feed.batches(0)
    with torch.no_grad(), applied(base, [(weights.modules, 1.0)]):
        wanted = base.denoise(batch.latents, batch.timesteps, batch.text)
    for kind in ("lora", "dora"):
        adapter = adapted(base, convert({"network": {"kind": kind, "rank": 6}}))
        try:
            adapter.begin_from(weights.modules, "start")
            with torch.no_grad():
                begun = base.denoise(batch.latents, batch.timesteps, batch.text)
        finally:
            adapter.remove()
        assert torch.allclose(begun, wanted, atol=1e-5), kind
        assert bool(adapter.modules[0].down[2:].any())  # what is new can still learn
    columns = [
        dataclasses.replace(one, magnitude=torch.ones(one.part.shape[1]), columns=True)
        for one in weights.modules
    ]
    adapter = adapted(base, convert({"network": {"kind": "dora"}}))
    try:
        with pytest.raises(LoraError, match="DoRA of rows is trained"):
            adapter.begin_from(columns, "start")
    finally:
        adapter.remove()


def test_ranks_and_rates_go_by_pattern(base: Base, tmp_path: Path) -> None:
    network = {"rank": 8, "alpha": 8.0, "ranks": ["OUT*=2/1", "*mid_block*attn2*=0", "M00=16"]}
    optimizer = {"learning_rate": 1e-3, "weight_decay": 0.0, "rates": ["IN*=0.25", "*to_k=0"]}
    adapter = trained(base, tmp_path, 1, network=network, optimizer=optimizer)
    sizes = {}
    for one in adapter.modules:
        place = one.path.partition("_")[0] + (".attn2" if "attn2" in one.path else "")
        sizes[place] = (len(one.down), one.alpha)
        step = float(one.up.abs().max())  # AdamW's first is as long as the rate
        assert step == pytest.approx(0.25e-3 if "down" in one.path else 1e-3, rel=0.02), one.path
        assert "IN" not in one.path and (not one.path.endswith("to_k") or "down" in one.path)
    assert sizes == {
        "down": (8, 8.0), "down.attn2": (8, 8.0), "mid": (16, 8.0),
        "up": (2, 1.0), "up.attn2": (2, 1.0),
    }  # fmt: skip
    for wrong in ({"ranks": ["nowhere=4"]}, {"ranks": ["*=0"]}):
        with pytest.raises(LoraError) as caught:
            adapted(base, convert({"network": wrong}))
        assert caught.value.code is Code.INVALID_RECIPE and "network.ranks" in caught.value.message


def test_the_metadata_names_the_kind_as_lycoris_does() -> None:
    lokr = convert({"network": KINDS["lokr"]}).network
    module, args = network_module(lokr)
    assert module == "lycoris.kohya" and args["algo"] == "lokr" and args["factor"] == 4
    assert json.dumps(args)
    dora = network_module(convert({"network": {"kind": "dora"}}).network)
    assert dora[1]["algo"] == "lora" and dora[1]["dora_wd"] and dora[1]["wd_on_output"]
    assert network_module(convert({}).network)[0] == "networks.lora"
