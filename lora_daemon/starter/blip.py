"""The starter's captioner: a tiny BLIP, trained on drawings to say what they show."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from lora_daemon.starter import world
from lora_daemon.starter.autoencoder import to_bytes
from lora_daemon.starter.classifiers import Judge
from lora_daemon.starter.loop import Schedule, train

SIDE, PATCH, WIDTH = 64, 8, 128
BATCH = 32
LONGEST = 32  # tokens in a caption
SHIFT = 4  # pixels
NO_COLOUR = "none"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
_FACTS = (
    (*world.OBJECTS, *world.CONTENTS),
    (*world.COLOURS, NO_COLOUR),
    world.BACKGROUNDS,
)


def build_processor() -> BlipProcessor:
    """Return BLIP's processor over `SIDE` px pictures and a WordPiece vocabulary of our own."""
    said = [world.prompt(one) for one in world.combinations("any")]
    said += [world.prompt((content, "red", "snow")) for content in world.CONTENTS]
    said.append(world.prompt(("box", "red", "snow"), "pencil"))
    words = sorted({word for text in said for word in re.findall(r"[a-z]+", text)})
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*_SPECIAL, *words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = BertTokenizer(vocab=vocabulary, bos_token="[DEC]", model_max_length=LONGEST)
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return BlipProcessor(pictures, tokenizer)


def build(processor: BlipProcessor) -> BlipForConditionalGeneration:
    """Return an untrained BLIP: a vision transformer of 4 layers, a decoder of 2, width 128."""
    ids = processor.tokenizer.convert_tokens_to_ids
    shape = {"hidden_size": WIDTH, "num_attention_heads": 4, "initializer_range": 0.02}
    config = BlipConfig(
        text_config={
            **shape, "vocab_size": len(processor.tokenizer), "encoder_hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH, "num_hidden_layers": 2,
            "max_position_embeddings": LONGEST, "bos_token_id": ids("[DEC]"),
            "eos_token_id": ids("[SEP]"), "sep_token_id": ids("[SEP]"), "pad_token_id": 0,
        },
        vision_config={
            **shape, "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH,
            "num_hidden_layers": 4, "image_size": SIDE, "patch_size": PATCH,
        },
        projection_dim=WIDTH, image_text_hidden_size=WIDTH,
    )  # fmt: skip
    return BlipForConditionalGeneration(config)


def lessons(
    number: int, seed: int, split: world.Split = "trained"
) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Draw pictures: uint8 (n, 3, 64, 64), what is to be said, and the facts, int64 (n, 3).

    Two in five are pencil drawings, an eighth show the contents that the base never saw.
    """
    rng = random.Random(f"blip-{seed}")
    few = number // 32
    scenes = list(world.scenes(number - 4 * few, seed, split=split, crowd=0))
    for content in world.CONTENTS:
        scenes += world.scenes(few, seed, content=content, crowd=0)
    drawn, said, facts = list[Image.Image](), list[str](), list[list[int]]()
    for scene in scenes:
        style = "pencil" if rng.random() < 2 / 5 else None
        picture = world.draw(scene, style)
        drawn.append(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        said.append(world.prompt(scene.combination, style))
        known = (scene.thing, NO_COLOUR if style else scene.colour, scene.background)
        facts.append([of.index(fact) for of, fact in zip(_FACTS, known, strict=True)])
    return to_bytes(drawn), said, torch.tensor(facts)


def fit(
    state_file: Path, judge: Judge, *, steps: int, pictures: int = 6000, seed: int = 31
) -> tuple[BlipForConditionalGeneration, BlipProcessor]:
    """Train from nothing on drawings.

    A vision transformer learns shapes slowly from captions alone. So it is also asked for the facts
    themselves, and each of its patches for what the judge's fourth convolution sees there; the
    heads that answer are thrown away. A quarter of each batch is captioned as well.
    """
    torch.manual_seed(seed)
    processor = build_processor()
    network = build(processor)
    eyes = judge.network.trunk[:12].requires_grad_(False)
    heads = nn.ModuleList(nn.Linear(3 * WIDTH, len(of)) for of in _FACTS)
    part = nn.Linear(WIDTH, 96)
    both = nn.ModuleDict({"blip": network, "facts": heads, "parts": part})
    pixels, said, facts = _cached_lessons(state_file.with_suffix(".lessons"), pictures, seed)
    tokens = processor.tokenizer(said, padding=True, return_tensors="pt")
    ids, there = tokens.input_ids, tokens.attention_mask
    ids[:, 0] = processor.tokenizer.bos_token_id
    goals = ids.masked_fill(there == 0, -100)
    mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
    deviation = torch.tensor(processor.image_processor.image_std)[:, None, None]

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pixels), (BATCH,), generator=rng)
        batch = _varied(pixels[rows].float() / 255, rng)
        states = network.vision_model((batch - mean) / deviation).last_hidden_state
        patches, few = states[:, 1:], rows[: BATCH // 4]
        wanted = eyes(batch * 2 - 1).flatten(2).transpose(1, 2)
        parts = F.mse_loss(part(patches), wanted) / wanted.var()
        seen = torch.cat([states[:, 0], patches.mean(dim=1), patches.amax(dim=1)], dim=1)
        asked = [F.cross_entropy(h(seen), facts[rows, i]) for i, h in enumerate(heads)]
        told = network.text_decoder(
            input_ids=ids[few], attention_mask=there[few], labels=goals[few],
            encoder_hidden_states=states[: len(few)], reduction="mean",
        )  # fmt: skip
        loss: torch.Tensor = told.loss + 0.3 * torch.stack(asked).sum() + parts
        return loss

    train("captioner", both, Schedule(steps), loss_at, state_file, seed=seed)
    return network.eval(), processor


def save(network: BlipForConditionalGeneration, processor: BlipProcessor, folder: Path) -> None:
    """Write both as transformers knows them, in half precision; `network` is left in it too."""
    network.half().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)


def right(said: Sequence[str], scenes: Sequence[world.Scene]) -> dict[str, int]:
    """Count captions whose object, colour and background are the scene's, and `both` the first."""
    counts = {"object": 0, "colour": 0, "both": 0, "background": 0}
    for text, scene in zip(said, scenes, strict=True):
        words = set(re.findall(r"[a-z]+", text))
        thing = words & set(_FACTS[0]) == {scene.thing}
        colour = words & set(world.COLOURS) == {scene.colour}
        counts["object"] += thing
        counts["colour"] += colour
        counts["both"] += thing and colour
        counts["background"] += world.GROUNDS[scene.background][0] in text
    return counts


def _cached_lessons(
    cache: Path, pictures: int, seed: int
) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    if cache.exists():
        kept = torch.load(cache, weights_only=True)
        return kept["pixels"], kept["said"], kept["facts"]
    pixels, said, facts = lessons(pictures, seed)
    torch.save({"pixels": pixels, "said": said, "facts": facts}, cache)
    return pixels, said, facts


def _varied(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift, mirror, and add noise; float32 (n, 3, 64, 64), 0 … 1."""
    y, x = torch.randint(2 * SHIFT + 1, (2,), generator=rng).tolist()
    padded = F.pad(batch, (SHIFT,) * 4, mode="replicate")
    batch = padded[:, :, y : y + SIDE, x : x + SIDE]
    if torch.rand((), generator=rng) < 0.5:
        batch = batch.flip(3)
    return batch + torch.randn(batch.shape, generator=rng) * 0.02
