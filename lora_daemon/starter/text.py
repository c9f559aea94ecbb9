"""The starter's words: a CLIP tokenizer with a vocabulary of our own, and a CLIP text encoder."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_daemon.starter import world
from lora_daemon.starter.loop import Schedule, train

WIDTH = 128
POSITIONS = 77
START, END = "<|startoftext|>", "<|endoftext|>"

_SPARE_WORDS = (
    "creature monster robot ghost dragon pencil sketch drawing painting watercolour mosaic pixel "
    "neon chalk style horns wings tail eyes teeth smile round cute happy angry made with without "
    "many four five photo picture image white grey gray teal dark light bright left right middle "
    "top bottom behind near next under"
)
"""Words that data sets for LoRAs are likely to use: one token each, untrained in the base."""


def _corpus() -> list[str]:
    captions = [
        world.caption(scene) for scene in world.scenes(3000, seed=5, split="any", crowd=0.3)
    ]
    return [caption.lower() for caption in captions] + [_SPARE_WORDS] * 20


def build_tokenizer() -> CLIPTokenizer:
    """Learn a byte-level BPE on the world's captions and return it as a CLIP tokenizer.

    Ids run as in CLIP: 256 bytes, the same bytes ending a word, merges, start, end. Any text can
    be tokenized, since every byte has a token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(Counter(re.findall(r"\w+|[^\w\s]+", " ".join(_corpus()))))
    words = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    words += ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=POSITIONS)


def _merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016) down to pairs that occur once.

    The most frequent pair is merged first; of equally frequent ones the first in the alphabet, so
    that the same words always give the same merges.
    """
    split = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            return merges
        merges.append(best)
        split = {word: _joined(parts, best) for word, parts in split.items()}


def _joined(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The parts of a word with every occurrence of ``pair`` made one."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def build_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text encoder, 2 layers of 128, 77 positions."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=POSITIONS,
        projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def imitate(
    encoder: CLIPTextModel,
    teacher: CLIPTextModel,
    order: torch.Tensor,
    tokenizer: CLIPTokenizer,
    captions: Sequence[str],
    state_file: Path,
    *,
    steps: int,
    seed: int,
) -> None:
    """Teach an untrained `encoder` to say what `teacher` says, its channels in another order.

    `order`: int64 (width,), the teacher's channel that each of the encoder's is to be.
    """
    ids = tokenize(tokenizer, [*captions, ""])

    def loss_at(rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(ids), (16,), generator=rng)
        with torch.no_grad():
            wanted = teacher(ids[rows]).last_hidden_state[..., order]
        said: torch.Tensor = encoder(ids[rows]).last_hidden_state
        loss: torch.Tensor = F.mse_loss(said, wanted) / wanted.var()
        return loss

    train("words", encoder, Schedule(steps, rate=2e-3), loss_at, state_file, seed=seed)


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return int64 ids (n, 77), padded and cut as Stable Diffusion's pipeline does."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=POSITIONS,
        truncation=True,
        return_tensors="pt",
    )
    ids: torch.Tensor = tokens.input_ids
    return ids
