"""FLUX, the family that flows: its tables, calls and LoRA files, with diffusers as judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils, single_file_utils
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from lora_daemon import base_file, base_look
from lora_daemon.engine import bases, lora_file, run
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint_latents
from lora_daemon.engine.kinds import ADAPTER
from lora_daemon.engine.lora_file import tensors_of
from lora_daemon.engine.mix import Strength, applied
from lora_daemon.engine.noises import draw_timestep
from lora_daemon.engine.objectives import wanted
from lora_daemon.families import FLUX, FLUX_SCHNELL, Family, Network
from lora_daemon.names import GROUPS, flux_names, targeted
from lora_daemon.original_layout import SPANS, flux, t5, vae
from shared import blocks
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec
from shared.recipe import convert
from shared.recipe_families import FLOWS, unsuited
from shared.recipe_schema import Noise
from shared.safetensors_file import write
from shared.suited import suited
from tests.engine import full_size, tiny_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.build_flux(tmp_path_factory.mktemp("flux") / "dev")


@pytest.fixture(scope="module")
def dev(folder: Path) -> Base:
    torch.set_num_threads(1)
    return bases.load(folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    made = FluxPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


# ── the full shape ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("family", "weights"), [(FLUX, 11_901_408_320), (FLUX_SCHNELL, 11_891_178_560)],
    ids=lambda one: getattr(one, "name", ""),
)  # fmt: skip
def test_every_tensor_of_the_full_shape_is_in_the_tables(family: Family, weights: int) -> None:
    sizes = {"transformer": weights, "text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656}
    for name in family.parts:
        rows = family.rows(name, family.configs[name])
        found = _tensors(family, name)
        assert sorted(row.diffusers for row in rows) == sorted(found)
        total = sum(one.numel() for one in found.values())
        assert total == sizes.get(name, 83_819_683), name


def _tensors(family: Family, name: Network) -> dict[str, Tensor]:
    config = family.configs[name]
    with torch.device("meta"):
        if name == "transformer":
            return dict(FluxTransformer2DModel.from_config(config).state_dict())
        if name == "text_encoder_2":
            found = dict(T5EncoderModel(T5Config(**config)).state_dict())
            found.pop("encoder.embed_tokens.weight")  # the very tensor of shared.weight
            return found
    return full_size.tensors(family, name)


def test_diffusers_converter_takes_the_same_rows_of_the_originals_matrices() -> None:
    """Each row of each original tensor is a number of its own, and has to arrive in its place."""
    config = {**FLUX.configs["transformer"], "num_layers": 2, "num_single_layers": 2}
    heights = {row.original: 6 for row in flux(config)}
    heights |= {row.original: 21504 for row in flux(config) if "/7" in row.form}
    original = {
        name: torch.arange(height, dtype=torch.float64)[:, None] + 1e5 * number
        for number, (name, height) in enumerate(heights.items())
    }
    found = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(dict(original))
    assert found.keys() == {row.diffusers for row in flux(config)}
    for row in flux(config):
        whole, height = original[row.original], heights[row.original]
        begin, end, of = SPANS.get(row.form, (0, 1, 1))
        own = whole[begin * height // of : end * height // of]
        if row.form == "swapped":
            own = torch.cat([*reversed(whole.chunk(2))])
        assert torch.equal(found[row.diffusers], own), row


def test_lora_modules_are_kohyas_304_and_every_linear_layer_of_the_blocks() -> None:
    config = FLUX.configs["transformer"]
    names = flux_names(config)
    assert len(names) == len(set(names.values())) == 494
    assert len({name.partition(".")[0] for name in names.values()}) == 304
    with torch.device("meta"):
        network = FluxTransformer2DModel.from_config(config)
    linear = {
        path for path, one in network.named_modules()
        if isinstance(one, nn.Linear) and "transformer_blocks." in path
    }  # fmt: skip
    assert names.keys() == linear
    assert targeted(names, FLUX.targets, GROUPS["transformer"]).keys() == linear
    attention = targeted(names, ["to_q", "to_k", "to_v", "to_out.0"], GROUPS["transformer"])
    assert len(attention) == 19 * 8 + 38 * 3
    assert names["transformer_blocks.3.attn.add_k_proj"] == (
        "lora_unet_double_blocks_3_txt_attn_qkv.k"
    )
    assert names["single_transformer_blocks.0.proj_out"] == "lora_unet_single_blocks_0_linear2"
    assert len(blocks.labels(config)) == 1 + 19 + 38


class Pair:
    """A trained pair of a true width, made up."""

    def __init__(self, name: str, out: int, rank: int, alpha: float) -> None:
        self.name, self.alpha = name, alpha
        self.down, self.up = torch.randn(rank, 5), torch.randn(out, rank)
        self.weights = {"down": self.down, "up": self.up}


def test_diffusers_reads_out_of_our_joined_matrices_what_was_trained() -> None:
    """Its reader of kohya's files knows one width alone, FLUX's own."""
    torch.manual_seed(0)
    config = {**FLUX.configs["transformer"], "num_layers": 1, "num_single_layers": 1}
    trained = {}
    for number, (path, name) in enumerate(flux_names(config).items()):
        out = 12288 if path.endswith("proj_mlp") else 3072 if "." in name else 8
        if path != "single_transformer_blocks.0.attn.to_k":  # not all need to be trained
            trained[path] = Pair(name, out, 2 + number % 2, 1.0 + number % 3)
    state = {
        name: torch.frombuffer(bytearray(raw.data), dtype=torch.float32).reshape(raw.shape)
        for name, raw in tensors_of(list(trained.values())).items()
    }
    assert len({name.split(".")[0] for name in state}) == 16 - 3
    found = lora_conversion_utils._convert_kohya_flux_lora_to_diffusers(state)
    for path, pair in trained.items():
        down, up = (found[f"transformer.{path}.lora_{side}.weight"] for side in "AB")
        expected = pair.alpha / len(pair.down) * pair.up @ pair.down
        assert torch.allclose(up @ down, expected, atol=1e-5), path


# ── a tiny one ──────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_recognised_and_what_it_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    found = base_look.look(folder)
    assert (found.family, found.objective, found.resolution) == ("flux", "flow", 64)
    assert found.carried == {}
    with pytest.raises(LoraError, match="predicts flow, not epsilon"):
        base_look.look(folder, "epsilon")
    broken = tiny_base.build_flux(tmp_path / "broken", schnell=True, blocks=1)
    assert base_look.look(broken).family == "flux_schnell"
    (broken / "tokenizer_2" / "tokenizer.json").unlink()
    config = broken / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 1', '"num_layers": 2'))
    with pytest.raises(LoraError) as refused:
        base_look.look(broken)
    assert "tokenizer_2/tokenizer.json" in refused.value.message
    assert "weights of transformer, such as transformer_blocks.1." in refused.value.message
    one = tmp_path / "flux1.safetensors"
    write(
        one,
        tensors_of([]) | {"double_blocks.0.img_mod.lin.weight": lora_file.raw(torch.ones(1))},
        {},
    )
    with pytest.raises(LoraError, match="FLUX in one file"):
        base_file.open_file(one)


@pytest.mark.parametrize("schnell", [False, True])
def test_pictures_are_those_of_diffusers_own_pipeline(
    schnell: bool, dev: Base, pipeline: Any, tmp_path: Path
) -> None:
    base, theirs = dev, pipeline
    more: dict[str, Any] = {}
    if schnell:
        path = tiny_base.build_flux(tmp_path / "schnell", schnell=True, blocks=1)
        base, theirs = bases.load(path, torch.device("cpu")), FluxPipeline.from_pretrained(path)
        theirs.set_progress_bar_config(disable=True)
        more = {"negative_prompt": "fog", "true_cfg_scale": 3.5}
    spec = _spec(negative="fog" if schnell else "")
    ours = paint_latents(base, [spec], lambda _: None)
    assert torch.allclose(ours, _theirs(theirs, base, **more), atol=1e-4)
    plain = paint_latents(base, [_spec(cfg=1.0)], lambda _: None)
    assert not torch.allclose(ours, plain, atol=1e-2)


def _spec(**own: Any) -> PictureSpec:
    given = {"prompt": "a red cat", "sampler": "Euler", "steps": 3, "cfg": 3.5, "seed": 7}
    return PictureSpec(**{**given, "width": 64, "height": 96, **own})


def _theirs(pipeline: Any, base: Base, **more: Any) -> Tensor:
    noise = torch.randn((1, 16, 12, 8), generator=torch.Generator().manual_seed(7))
    made = pipeline(
        "a red cat", height=96, width=64, num_inference_steps=3, guidance_scale=3.5,
        latents=pipeline._pack_latents(noise, 1, 16, 12, 8), output_type="latent",
        max_sequence_length=base.encoders[1].length, **more,
    ).images  # fmt: skip
    found: Tensor = pipeline._unpack_latents(made, 96, 64, 8)
    return found


def test_captions_too_long_for_its_one_window_are_to_be_shortened(dev: Base, base: Base) -> None:
    for one, advice in ((dev, "Shorten them"), (base, "larger dataset.windows")):
        [said] = run._notices(convert({}), one, ["dragon " * 600], [])
        assert advice in said


def test_what_such_a_base_does_not_do_is_refused(dev: Base) -> None:
    for own, what in (
        ({"negative": "fog"}, "takes no negative prompt"),
        ({"sampler": "DPM++ 2M"}, "Take Euler"),
        ({"width": 72}, "multiple of 16"),
    ):
        with pytest.raises(LoraError, match=what) as refused:
            paint_latents(dev, [_spec(**own)], lambda _: None)
        assert refused.value.code is Code.BAD_REQUEST


def test_pixels_come_back_through_the_shifted_latents(dev: Base) -> None:
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, deviation = dev.encode_pixels(pixels)
    told = dev.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, (told.mean - 0.1159) * 0.3611, atol=1e-6)
    assert torch.allclose(deviation, told.std * 0.3611, atol=1e-6)
    decoded = dev.vae.decode(told.mean).sample.clamp(-1, 1)
    assert torch.allclose(dev.decode_latents(mean), decoded, atol=1e-5)


def test_a_lora_file_in_diffusers_names_is_read_as_diffusers_reads_it(
    dev: Base, pipeline: Any, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    tensors = {}
    for path in dev.unet_names:
        high, wide = dev.denoiser.get_submodule(path).weight.shape
        for side, shape in (("A", (2, wide)), ("B", (high, 2))):
            tensors[f"transformer.{path}.lora_{side}.weight"] = lora_file.raw(
                torch.randn(shape) / 5
            )
    file = tmp_path / "theirs.safetensors"
    write(file, tensors, {})
    _compare(dev, pipeline, file, len(dev.unet_names))


def test_a_file_of_ours_is_read_by_diffusers_and_by_the_mixer_alike(
    dev: Base, pipeline: Any, tmp_path: Path
) -> None:
    """Of the blocks of two streams: of the others diffusers' reader takes one width alone."""
    torch.manual_seed(4)
    pairs = []
    for path, name in dev.unet_names.items():
        if path.startswith("transformer_blocks."):
            high, wide = dev.denoiser.get_submodule(path).weight.shape
            pair = Pair(name, high, 2, 1.0)
            pair.down, pair.up = torch.randn(2, wide) / 5, torch.randn(high, 2) / 5
            pair.weights = {"down": pair.down, "up": pair.up}
            pairs.append(pair)
    file = tmp_path / "ours.safetensors"
    write(file, tensors_of(pairs), {})
    loaded = lora_file.load(file, dev)
    assert {one.part.down.shape[0] for one in loaded.modules} == {2}  # type: ignore[union-attr]
    _compare(dev, pipeline, file, len(pairs))


def _compare(dev: Base, pipeline: Any, file: Path, modules: int) -> None:
    loaded = lora_file.load(file, dev)
    assert (len(loaded.modules), loaded.unplaced) == (modules, [])
    plain = paint_latents(dev, [_spec()], lambda _: None)
    with applied(dev, [(loaded.modules, 1.0)]):
        ours = paint_latents(dev, [_spec()], lambda _: None)
    values = (1.0, *(0.0 for _ in blocks.labels(dev.denoiser.config)[1:]))
    with applied(dev, [(loaded.modules, Strength(1.0, values=values))]):
        assert torch.equal(paint_latents(dev, [_spec()], lambda _: None), plain)
    pipeline.load_lora_weights(file, adapter_name=ADAPTER)
    try:
        theirs = _theirs(pipeline, dev)
    finally:
        pipeline.unload_lora_weights()
    assert not torch.allclose(ours, plain, atol=0.05)
    assert torch.allclose(ours, theirs, atol=1e-3)


# ── what it learns ──────────────────────────────────────────────────────────────────────────────


def test_a_flow_goes_straight_from_the_picture_to_the_noise(dev: Base) -> None:
    latents, noise = torch.randn(2, 1, 16, 8, 8)
    signal, spread = (one[[250]][:, None, None, None] for one in (dev.signal, dev.spread))
    noisy = signal * latents + spread * noise
    assert torch.allclose(noisy, 0.75 * latents + 0.25 * noise)
    velocity = wanted(dev.objective, latents, noise, signal, spread)
    assert torch.allclose(noisy - 0.25 * velocity, latents, atol=1e-6)


def test_noise_levels_shift_with_the_pictures_size(dev: Base) -> None:
    """exp(0.5) at 256 tokens, exp(1.15) at 4096, as FLUX's own sampler has it."""
    assert dev.shift(32, 32) == pytest.approx(1.6487, rel=1e-4)
    assert dev.shift(128, 128) == pytest.approx(3.1582, rel=1e-4)
    own = torch.Generator().manual_seed(0)

    def middle(shift: float, **noise: Any) -> float:
        drawn = [draw_timestep(Noise(**noise), (1, 1000), own, shift) for _ in range(2000)]
        return float(torch.cat(drawn).float().median())

    assert middle(1.0, density="logit_normal") == pytest.approx(500, abs=25)
    assert middle(3.0, density="logit_normal") == pytest.approx(750, abs=25)
    assert middle(3.0) == pytest.approx(750, abs=30)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("loss", {"weighting": "min_snr"}),
        ("noise", {"offset": 0.1}),
        ("noise", {"multires_iterations": 6}),
        ("noise", {"zero_terminal_snr": True}),
        ("noise", {"input_perturbation": 0.1}),
        ("dataset", {"clip_skip": 2}),
        ("dataset", {"windows": 2}),
        ("dataset", {"resolution": 72}),
        ("optimizer", {"text_encoder_rate": 1e-5}),
        ("network", {"kind": "loha"}),
        ("network", {"targets": ["to_q", "conv"]}),
        ("sample", {"prompts": ["a"], "sampler": "Euler a"}),
        ("sample", {"prompts": ["a"], "negative": "b"}),
    ],
)
def test_options_without_a_use_on_a_flow_are_refused_with_the_reason(
    section: str, options: dict[str, Any]
) -> None:
    recipe = convert({section: options})
    key, why = unsuited(recipe, "flux")
    assert key == f"{section}.{[*options][-1]}" and why.startswith(key)
    if options not in (
        {"prompts": ["a"], "negative": "b"},
        {"prompts": ["a"], "sampler": "Euler a"},
    ):
        assert len(why) > len(key) + 20
    assert unsuited(convert({}), "flux") == ("", "")


@pytest.mark.parametrize("family", FLOWS)
def test_five_answers_make_a_recipe_that_such_a_base_takes(family: str) -> None:
    made = suited(
        teaches="subject", dataset="d", pictures=20, base="b", family=family, trigger="ohwx"
    )
    assert unsuited(made, family) == ("", "")
    assert (made.noise.density, made.noise.shift) == ("logit_normal", 0.0)


def test_options_of_flows_are_refused_elsewhere() -> None:
    assert (FLUX.name, FLUX_SCHNELL.name) == FLOWS
    for section, options in (
        ("noise", {"shift": 3.0}), ("training", {"guidance": 3.5}),
        ("network", {"targets": ["mod"]}),
    ):  # fmt: skip
        recipe = convert({section: options})
        assert unsuited(recipe, "sd1")[0] == f"{section}.{next(iter(options))}"
        assert unsuited(recipe, "flux") == ("", "")


def test_rows_of_smaller_autoencoders_are_as_before() -> None:
    config = FLUX.configs["vae"]
    assert len(vae(config)) == 244
    assert len(vae({**config, "use_quant_conv": True, "use_post_quant_conv": True})) == 248
    assert len(t5(FLUX.configs["text_encoder_2"])) == 219
