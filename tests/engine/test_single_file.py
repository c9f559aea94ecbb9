"""A base as one file is the same base: both layouts, both ways, with and without own sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_daemon import vocabulary
from lora_daemon.base_file import OWN, open_file
from lora_daemon.engine import bases, single_file
from lora_daemon.engine.bases import Base
from lora_daemon.families import SD1, SDXL
from shared.errors import Code, LoraError
from shared.safetensors_file import read_header
from tests.engine import tiny_base
from tests.engine.full_size import write_hollow

CPU = torch.device("cpu")
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Base, Base]]:
    """A tiny base of each family, loaded from its folder and from the one file made of that."""
    root = tmp_path_factory.mktemp(request.param)
    folder = tiny_base.build(root / "base", family=request.param)
    single_file.pack(folder, root / "base.safetensors")
    yield bases.load(folder, CPU), bases.load(root / "base.safetensors", CPU)


def test_every_weight_comes_through_unchanged(pair: tuple[Base, Base]) -> None:
    folder, file = pair
    assert folder.family is file.family and folder.objective == file.objective
    assert folder.resolution == file.resolution == 64
    for name in folder.family.parts:
        ours, theirs = getattr(file, name).state_dict(), getattr(folder, name).state_dict()
        assert ours.keys() == theirs.keys() and ours
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_it_paints_and_predicts_the_same(pair: tuple[Base, Base]) -> None:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    both = []
    for base in pair:
        text = torch.cat([base.encode_text("a small thing, 漢字"), base.encode_text("")])
        both.append(base.denoise(noisy, torch.tensor([900, 20]), text))
        both.append(base.decode_latents(noisy))
    assert torch.equal(both[0], both[2]) and torch.equal(both[1], both[3])
    assert torch.equal(pair[0].alphas_cumprod, pair[1].alphas_cumprod)
    assert pair[0].unet_names == pair[1].unet_names


def test_a_file_of_another_size_carries_its_configurations(pair: tuple[Base, Base]) -> None:
    metadata = read_header(pair[1].path).metadata
    assert OWN in metadata and metadata["modelspec.prediction_type"] in ("epsilon", "v")
    assert pair[0].vae_hash and pair[1].vae_hash and len(pair[1].model_hash) == 64


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tiny_base.build(tmp_path / "base")
    single_file.pack(folder, tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def _changed(path: Path, change: str) -> Path:
    tensors, metadata = load_file(path), read_header(path).metadata
    match change:
        case "wide":
            tensors["model.diffusion_model.input_blocks.1.1.proj_in.bias"] = torch.zeros(33)
        case "nan":
            tensors["first_stage_model.decoder.conv_in.bias"][3] = float("nan")
        case "infinite":
            tensors["model.diffusion_model.out.2.weight"].flatten()[5] = float("inf")
        case "short names":
            tensors = {name.replace(".text_model.", "."): one for name, one in tensors.items()}
        case "linear":  # 1×1 convolutions that another tool has squeezed
            name = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
            tensors[name] = tensors[name][..., 0, 0].contiguous()
        case "own":
            metadata = {OWN: '{"configs": {"unet": {}}}'}
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("wide", r"proj_in\.bias is 33, and .* has 32 there"),
        ("nan", r"decoder\.conv_in\.bias of its vae holds numbers that are not finite"),
        ("infinite", r"conv_out\.weight of its unet"),
        ("own", "describes no base"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_refused(change: str, what: str, tiny: Path) -> None:
    with pytest.raises(LoraError, match=what) as refused:
        bases.load(_changed(tiny, change), CPU)
    assert refused.value.code is Code.INVALID_FILE


@pytest.mark.parametrize("change", ["short names", "linear"])
def test_other_tools_spellings_are_read(change: str, tiny: Path) -> None:
    before = bases.load(tiny, CPU)
    after = bases.load(_changed(tiny, change), CPU)
    noisy = torch.ones(1, 4, 8, 8)
    one, two = (
        base.denoise(noisy, torch.tensor([5]), base.encode_text("x")) for base in (before, after)
    )
    assert torch.equal(one, two)


def test_what_it_predicts_can_be_told(tiny: Path) -> None:
    assert bases.load(tiny, CPU).objective == "epsilon"
    told = bases.load(tiny, CPU, predicts="v_prediction")
    assert told.objective == told.scheduler_config["prediction_type"] == "v_prediction"


def test_the_vocabulary_of_a_file_without_one_is_clips(tmp_path: Path) -> None:
    file = open_file(write_hollow(tmp_path / "xl.safetensors", SDXL))
    first, second = (single_file.tokenizer(file, use) for use in SDXL.encoders)
    options = {"padding": "max_length", "max_length": 12}
    ids = [49406, 320, 1125, 539, 550, 18376, 6765, 49407]  # as OpenAI's own tokenizer has them
    assert first("a photo of an Astronaut riding", **options).input_ids == [*ids, *[49407] * 4]
    assert second("a  photo of an astronaut riding", **options).input_ids == [*ids, *[0] * 4]


def test_a_missing_vocabulary_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "find_spec", lambda name: None)
    vocabulary.clip.cache_clear()
    with pytest.raises(LoraError, match="pip install openai-clip"):
        vocabulary.clip()


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_own_reader_makes_the_same_networks_of_our_file(
    family: tiny_base.Kind, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    folder = tiny_base.build(tmp_path / "base", family=family)
    single_file.pack(folder, tmp_path / "base.safetensors")
    for kind, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        theirs = kind.from_single_file(
            str(tmp_path / "base.safetensors"),
            config=str(folder),
            subfolder=name,
            local_files_only=True,
        ).state_dict()
        ours = kind.from_pretrained(folder / name).state_dict()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)


@pytest.mark.slow
def test_a_full_size_file_fills_a_full_size_network(tmp_path: Path) -> None:
    file = open_file(write_hollow(tmp_path / "sd15.safetensors", SD1))
    unet = single_file.network(file, "unet", torch.bfloat16)
    assert sum(one.numel() for one in unet.parameters()) == 859_520_964
    assert not any(one.is_meta for one in [*unet.parameters(), *unet.buffers()])
