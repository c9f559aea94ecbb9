"""What is trained: bases of full size with random weights, and drawn pictures with captions."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_daemon import vocabulary
from lora_daemon.families import FAMILIES, Family
from lora_daemon.pipe import Freeze, FrozenPicture, Train
from shared import recipe as recipes
from shared.recipe import Recipe
from tests.engine import tiny_base

Shape = Literal["sd15", "sdxl", "starter", "tiny"]
SHAPES = get_args(Shape)
FAMILY: dict[str, Family] = {
    shape: one
    for shape, name in (("sd15", "sd1"), ("sdxl", "sdxl"))
    for one in FAMILIES
    if one.name == name
}  # of full size
SIDE = {"sd15": 512, "sdxl": 1024, "starter": 128, "tiny": 64}  # pixels
LESSON = 833  # pictures
_ANIMALS = ("dragon", "cat", "fish", "bird", "turtle", "fox", "mouse")
_COLOURS = ("green", "red", "blue", "yellow", "purple", "grey", "orange", "white")
_DOING = ("sitting", "flying", "smiling", "sleeping", "jumping", "looking at you", "holding a leaf")


def base(work: Path, shape: Shape, device: torch.device) -> Path:
    """The diffusers folder of a base, made if it is not there. Random numbers as torch begins with
    them, in 16 bits where it is of full size."""
    path = work / f"base-{shape}"
    if not (path / "made").exists():
        if shape in FAMILY:
            _full_size(path, FAMILY[shape], device)
        else:
            tiny_base.build(path, "starter" if shape == "starter" else "tiny")
        (path / "made").touch()
    return path


def _full_size(path: Path, family: Family, device: torch.device) -> None:
    torch.manual_seed(0)
    for name in family.parts:
        config = dict(family.configs[name])
        with device:
            network: Any
            if name == "unet":
                network = UNet2DConditionModel.from_config(config)
            elif name == "vae":
                network = AutoencoderKL.from_config(config)
            elif "CLIPTextModelWithProjection" in config["architectures"]:
                network = CLIPTextModelWithProjection(CLIPTextConfig(**config))
            else:
                network = CLIPTextModel(CLIPTextConfig(**config))
        network.half().cpu().save_pretrained(path / name)
        del network
    tokens, merges = vocabulary.clip().files()
    for encoder in family.encoders:
        folder = path / encoder.tokenizer
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_bytes(tokens)
        (folder / "merges.txt").write_bytes(merges)
        said = {
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
            "bos_token": vocabulary.START, "eos_token": vocabulary.END,
            "unk_token": vocabulary.END, "pad_token": encoder.padding,
        }  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    DDPMScheduler.from_config(family.configs["scheduler"]).save_pretrained(path / "scheduler")
    index = {"_class_name": f"StableDiffusion{'XL' * family.views}Pipeline"}
    (path / "model_index.json").write_text(json.dumps(index))


def pictures(work: Path, count: int, side: int) -> list[FrozenPicture]:
    """Pictures with shapes and fine detail, each with a caption of its own."""
    folder = work / f"pictures-{side}"
    folder.mkdir(parents=True, exist_ok=True)

    def one(number: int) -> FrozenPicture:
        path = folder / f"{number:04d}.jpg"
        if not path.exists():
            _drawn(number, side).save(path, quality=92)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return FrozenPicture(
            item=path.stem, path=str(path.absolute()), content=digest, caption=_caption(number)
        )

    with ThreadPoolExecutor(4) as several:
        return list(several.map(one, range(count)))


def _drawn(number: int, side: int) -> Image.Image:
    draw = np.random.default_rng(number)
    whole = np.full((side, side, 3), 128.0)
    for cells in (4, 16, 64, 256):
        layer = draw.integers(0, 256, (min(cells, side), min(cells, side), 3), dtype=np.uint8)
        grown = Image.fromarray(layer).resize((side, side), Image.Resampling.BILINEAR)
        whole += (np.asarray(grown, dtype=np.float64) - 128) * (4 / cells) ** 0.5
    picture = Image.fromarray(whole.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, wide, high = (int(value) for value in draw.integers(side // 16, side // 2, 4))
        colour = tuple(int(value) for value in draw.integers(0, 256, 3))
        pen.ellipse((x, y, x + wide, y + high), fill=colour, outline=(0, 0, 0))
    return picture


def _caption(number: int) -> str:
    every = list(itertools.product(_ANIMALS, _COLOURS, _DOING))
    animal, colour, doing = every[number % len(every)]
    return f"a drawing of a {colour} {animal} {doing}, picture {number}"


def recipe(name: str, shape: Shape, *sets: str) -> Recipe:
    """A recipe of ``configs/`` for a base of this shape. ``sets``: "key=value"."""
    family = FAMILY[shape].name if shape in FAMILY else "sd1"
    own = ["base.name=bench", f"base.family={family}", "dataset.name=bench"]
    path = Path(__file__).parents[2] / "configs" / f"{name}.toml"
    return recipes.load(path, [*own, f"dataset.resolution={SIDE[shape]}", *sets])


def run(
    folder: Path, base_path: Path, own: Recipe, frozen: list[FrozenPicture], cache: Path
) -> Train:  # fmt: skip
    """A run directory as the daemon makes it, and the order to train it."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipes.dump(own))
    freeze = Freeze(
        run="bench", name="bench", base="bench", base_path=str(base_path.absolute()),
        dataset="bench", pictures=frozen, skipped=[], queued_at=time.time(),
    )  # fmt: skip
    (folder / "freeze.json").write_bytes(msgspec.json.encode(freeze))
    return Train(run="bench", run_dir=str(folder.absolute()), cache_dir=str(cache.absolute()))
