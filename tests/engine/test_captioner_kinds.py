"""Captioners of many kinds: tiny random networks of the same classes, asked and read exactly."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lora_daemon.engine import captioner, tagger, vision_language
from lora_daemon.engine.vision_language import VisionLanguage
from lora_daemon.pipe import Manner
from lora_daemon.starter import blip_dir
from shared.errors import Code, LoraError

PARAGRAPH = "Describe with a paragraph what is shown in the image ."
CPU = torch.device("cpu")
PICTURES = [Image.new("RGB", (40, 24), "red"), Image.new("RGB", (24, 40), "blue")]
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endfor %} ASSISTANT:"
)
PLAIN = "{{ bos_token }} <image> {{ messages[0]['content'] }} ASSISTANT:"  # as JoyCaption has it
WORDS = (
    "<s> </s> <pad> <unk> <image> USER : ASSISTANT Describe What does the image describe ? in "
    "detail what is shown with a paragraph . this picture one dragon red tags , green"
)


def words(image: str = "<image>", more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of a few words, and of what stands for a picture."""
    known = {word: number for number, word in enumerate(dict.fromkeys([*WORDS.split(), *more]))}
    bare = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", extra_special_tokens={"image_token": image},
    )  # fmt: skip


def florence(path: Path) -> Path:
    torch.manual_seed(6)  # of it, the two pictures are told apart
    tokenizer = words()
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=2, bos_token_id=0,
        eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None, init_std=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    vision = Florence2VisionConfig(
        embed_dim=[8, 16], depths=[1, 1], num_heads=[2, 2], num_groups=[2, 2], patch_size=[7, 3],
        patch_stride=[4, 2], patch_padding=[3, 1], patch_prenorm=[False, True], window_size=4,
        projection_dim=16, max_temporal_embeddings=4, max_position_embeddings=8,
    )  # fmt: skip
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=4)
    Florence2ForConditionalGeneration(config).save_pretrained(path)
    pixels = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pixels.image_seq_length = 17  # 4 × 4 places and their mean
    Florence2Processor(pixels, tokenizer).save_pretrained(path)
    return path


def llava(path: Path, template: str = TEMPLATE) -> Path:
    torch.manual_seed(1)
    tokenizer = words()
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=4)
    LlavaForConditionalGeneration(config).save_pretrained(path)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    LlavaProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(path)  # fmt: skip
    return path


def loaded(path: Path, **manner: Any) -> VisionLanguage:
    found = captioner.load(path, CPU, Manner(**manner))
    assert isinstance(found, VisionLanguage)
    return found


def test_florence_is_asked_by_its_task_and_says_the_likeliest(tmp_path: Path) -> None:
    asked = loaded(florence(tmp_path), prompt="<MORE_DETAILED_CAPTION>", max_tokens=5)
    given = asked.inputs(PICTURES, ["<MORE_DETAILED_CAPTION>"] * 2)
    read = asked._processor.batch_decode(given["input_ids"])
    assert [text.replace("<image>", "").split() for text in read] == [
        f"<s> {PARAGRAPH} </s>".split()
    ] * 2
    assert given["pixel_values"].shape == (2, 3, 32, 32)
    assert (given["input_ids"] == 4).sum(1).tolist() == [17, 17]
    said = torch.ones(2, 1, dtype=torch.long)  # a decoder begins with </s>
    for _ in range(5):
        logits = asked._network(**given, decoder_input_ids=said).logits[:, -1]
        said = torch.cat([said, logits.argmax(-1, keepdim=True)], 1)
    texts = asked._processor.batch_decode(said, skip_special_tokens=True)
    assert asked(PICTURES, ["<MORE_DETAILED_CAPTION>"] * 2) == texts
    assert texts[0] != texts[1] and all(texts)
    own = asked.inputs(PICTURES[:1])["input_ids"][0]
    assert "Describe in detail what is" in asked._processor.decode(own)


@pytest.mark.parametrize("template", [TEMPLATE, PLAIN], ids=["in parts", "plain text"])
def test_a_chat_model_gets_its_template_and_the_answer_is_what_follows(
    tmp_path: Path, template: str
) -> None:
    asked = loaded(llava(tmp_path, template), max_tokens=4)
    questions = ["Describe this picture", "What is the dragon in this picture ?"]
    given = asked.inputs(PICTURES, questions)
    assert given["pixel_values"].shape == (2, 3, 16, 16)
    for row, mask, question in zip(
        given["input_ids"], given["attention_mask"], questions, strict=True
    ):
        text = asked._processor.decode(row[mask.bool()])
        start = "USER : " if template == TEMPLATE else "<s> "
        assert text == f"{start}{'<image> ' * 4}{question} ASSISTANT :"
        assert mask[-1] == 1  # what is padded stands before, so that the answer follows at once
    said = asked(PICTURES, questions)
    for picture, question, text in zip(PICTURES, questions, said, strict=True):
        alone = dict(asked.inputs([picture], [question]))
        start = alone["input_ids"].shape[1]
        for _ in range(4):
            likeliest = asked._network(**alone).logits[:, -1].argmax(-1, keepdim=True)
            alone["input_ids"] = torch.cat([alone["input_ids"], likeliest], 1)
            alone["attention_mask"] = torch.ones_like(alone["input_ids"])
        assert text == asked._processor.decode(
            alone["input_ids"][0, start:], skip_special_tokens=True
        )


def test_a_template_without_a_place_for_the_picture_is_refused(tmp_path: Path) -> None:
    asked = loaded(llava(tmp_path, "{{ messages[0]['content'] }}"))
    with pytest.raises(LoraError, match="has no place for a picture"):
        asked(PICTURES, ["Describe", "Describe"])


@pytest.mark.parametrize(
    ("make", "manner", "words"),
    [
        (florence, {"prompt": "What is this?"}, "is asked by one of <CAPTION>"),
        (florence, {"threshold": 0.5}, "are for taggers"),
        (lambda _: blip_dir(), {"prompt": "a photo of"}, "BLIP takes no prompt"),
        (lambda _: blip_dir(), {"blacklist": ("solo",)}, "BLIP writes sentences"),
    ],
)
def test_what_a_captioner_cannot_be_asked_is_refused(
    tmp_path: Path, make: Any, manner: dict[str, Any], words: str
) -> None:
    with pytest.raises(LoraError, match=words) as caught:
        captioner.load(make(tmp_path), CPU, Manner(**manner))
    assert caught.value.code == Code.BAD_REQUEST


def test_what_a_kind_cannot_be_loaded_without_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("X requires the Torchvision library. Check out\nthe page.")

    monkeypatch.setattr(vision_language.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(
        LoraError, match=r"LLaVA.*\(X requires the Torchvision library\).*\[captioners\]"
    ) as caught:
        captioner.load(llava(tmp_path), CPU)
    assert caught.value.code == Code.WRONG_STATE


def test_an_unknown_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path)
    with pytest.raises(LoraError, match=r"'bert'.*Florence-2.*Qwen3-VL.*WD taggers") as caught:
        captioner.load(tmp_path, CPU)
    assert caught.value.code == Code.INVALID_FILE


class Session:
    """onnxruntime's session as the tagger uses it, with a fixed answer."""

    def __init__(self, answer: Sequence[float]) -> None:
        self.answer, self.given = answer, np.zeros(0)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="input", shape=["batch", 448, 448, 3])]

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.given = inputs["input"]
        return [np.asarray([self.answer] * len(self.given), np.float32)]


TABLE = """tag_id,name,category,count
1,general,9,1
2,sensitive,9,1
3,1girl,0,1
4,long_hair,0,1
5,>_<,0,1
6,o_o,0,1
7,hat_(witch),0,1
8,hatsune_miku,4,1
9,rin_(kagamine),4,1
"""
ANSWER = (0.2, 0.7, 0.99, 0.6, 0.5, 0.34, 0.36, 0.9, 0.6)


def tagged(tmp_path: Path, **manner: Any) -> str:
    (tmp_path / tagger.TAGS).write_text(TABLE)
    tags = tagger.read_tags(tmp_path / tagger.TAGS)
    return tagger.Tagger(Session(ANSWER), tags, Manner(**manner))(PICTURES[:1])[0]


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ({}, "hatsune miku, 1girl, long hair, >_<, hat (witch)"),
        ({"threshold": 0.6}, "hatsune miku, rin (kagamine), 1girl, long hair"),
        ({"categories": ("general", "rating")}, "1girl, long hair, >_<, hat (witch), sensitive"),
        ({"blacklist": ("Long_Hair", ">_<", "hatsune miku")}, "1girl, hat (witch)"),
        ({"threshold": 1.0}, ""),
    ],
)
def test_a_taggers_numbers_become_tags(tmp_path: Path, manner: dict[str, Any], said: str) -> None:
    assert tagged(tmp_path, **manner) == said


def test_a_tagger_gets_a_white_square_blue_first() -> None:
    session = Session([])
    asked = tagger.Tagger(session, [], Manner())
    assert asked([Image.new("RGB", (448, 224), (10, 20, 250))] * 2) == ["", ""]
    assert (session.given.shape, session.given.dtype) == ((2, 448, 448, 3), np.float32)
    assert session.given[0, 224, 100].tolist() == [250, 20, 10]
    assert session.given[0, 111, 100].tolist() == [255, 255, 255]
    assert session.given[0, 112, 0].tolist() == [250, 20, 10]
    noise = Image.effect_noise((300, 300), 90).convert("RGB")
    expected = np.asarray(noise.resize((448, 448), Image.Resampling.BICUBIC), np.float32)
    assert np.array_equal(tagger.pixels_of(noise, 448), expected[:, :, ::-1])


def test_a_tagger_says_what_is_missing_and_what_it_is_not_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / tagger.TAGS).write_text(TABLE)
    with pytest.raises(LoraError, match=r"has no model\.onnx"):
        captioner.load(tmp_path, CPU)
    (tmp_path / tagger.NETWORK).write_bytes(b"no network")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LoraError, match=r"lora-tui\[captioners\]") as caught:
        captioner.load(tmp_path, CPU)
    assert caught.value.code == Code.WRONG_STATE
    with pytest.raises(LoraError, match="takes no prompt"):
        tagged(tmp_path, prompt="Describe")
    assert "photographs" in tagger.Tagger(Session([]), [], Manner()).warning
    (tmp_path / tagger.TAGS).write_text("name,category\nx,7\n")
    with pytest.raises(LoraError, match="no table of a WD tagger"):
        captioner.load(tmp_path, CPU)
