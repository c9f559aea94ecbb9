"""The starter's words: a CLIP tokenizer with a vocabulary of our own, and a CLIP text encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_daemon.starter import world

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
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=4096, min_frequency=2, initial_alphabet=alphabet, end_of_word_suffix="</w>",
        show_progress=False,
    )  # fmt: skip
    learner.train_from_iterator(_corpus(), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    words += ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), START, END]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=POSITIONS)


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
