"""Captioners whose processors also know videos: only where torchvision and num2words are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.engine.test_captioner_kinds import PICTURES, loaded, words

pytest.importorskip("torchvision")
pytest.importorskip("num2words")

QWEN = "<|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|> <|im_start|> <|im_end|>"
SMOL = "<fake_token_around_image> <global-img> <video> <end_of_utterance>"
TEMPLATE = (
    "{% for m in messages %}USER : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}PICTURE {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endfor %} ASSISTANT :"
)


def qwen(path: Path) -> None:
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    tokenizer = words("<|image_pad|>", QWEN.split())
    image, video, start, end, *_ = tokenizer.convert_tokens_to_ids(QWEN.split())
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "head_dim": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    Qwen3VLForConditionalGeneration(config).save_pretrained(path)
    pixels = Qwen2VLImageProcessor(patch_size=16, min_pixels=32 * 32, max_pixels=64 * 64)
    place = "<|vision_start|><|image_pad|><|vision_end|>"
    Qwen3VLProcessor(
        pixels, tokenizer, Qwen3VLVideoProcessor(), chat_template=TEMPLATE.replace("PICTURE", place)
    ).save_pretrained(path)


def smolvlm(path: Path) -> None:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = words("<image>", [*SMOL.split(), *tiles])
    text = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 16,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = SmolVLMConfig(
        image_token_id=4, scale_factor=2, pad_token_id=2, text_config=text, vision_config=vision
    )
    SmolVLMForConditionalGeneration(config).save_pretrained(path)
    side = {"longest_edge": 32}
    SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size=side), tokenizer,
        SmolVLMVideoProcessor(size=side, max_image_size=side), image_seq_len=4,
        chat_template=TEMPLATE.replace("PICTURE", "<image>"),
    ).save_pretrained(path)  # fmt: skip


@pytest.mark.parametrize("make", [qwen, smolvlm])
def test_it_says_the_same_of_a_picture_alone_and_among_others(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    torch.manual_seed(1)
    make(tmp_path)
    asked = loaded(tmp_path, max_tokens=5)
    questions = ["Describe this picture", "What is the dragon in this picture ?"]
    said = asked(PICTURES, questions)
    alone = [asked([one], [text])[0] for one, text in zip(PICTURES, questions, strict=True)]
    assert said == alone and any(said)
    given = asked.inputs(PICTURES, questions)["input_ids"]
    for row, question in zip(given, questions, strict=True):
        text = asked._processor.decode(row)
        assert text.endswith(f"{question} ASSISTANT :") and asked._processor.image_token in text
