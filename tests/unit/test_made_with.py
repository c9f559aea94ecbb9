"""What pictures of many tools say of themselves, and the picture that asks for them again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from shared import mixes
from shared.distilled import Preview
from shared.errors import LoraError
from shared.gallery import Shown, ordered, reader
from shared.made_with import Made, again, of_webui, read, sampler, webui
from shared.mixes import MixSpec
from shared.pictures import (
    LoraUse,
    PictureSpec,
    SecondPass,
    Start,
    Variation,
    parameters_text,
)

WEBUI = (
    "a (red:1.2) house <lora:ink:0.8>\nin two lines\nNegative prompt: blurry, bad\nSteps: 20, "
    "Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1234567890123456789, "
    'Size: 512x768, Model hash: abc, Model: anything-v5, Lora hashes: "ink: 12, x: 3", '
    "Version: v1.10.1"
)
GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": ["20", 0], "steps": 25, "cfg": 6.5, "sampler_name": "dpmpp_2m",
        "scheduler": "karras", "denoise": 1.0, "model": ["11", 0], "positive": ["6", 0],
        "negative": ["7", 0], "latent_image": ["5", 0]}},
    "30": {"class_type": "KSampler", "inputs": {"seed": 1, "latent_image": ["3", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/xl.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["21", 0], "clip": ["11", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["11", 1]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors",
           "strength_model": 0.7, "strength_clip": 0.5, "model": ["4", 0]}},
    "11": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "cat.safetensors",
           "strength_model": 1.0, "model": ["10", 0]}},
    "20": {"class_type": "PrimitiveInt", "inputs": {"value": 42}},
    "21": {"class_type": "PrimitiveString", "inputs": {"value": "a green tree"}},
}  # fmt: skip


def test_the_webui_text_is_read_field_by_field() -> None:
    made = of_webui(WEBUI)
    assert made is not None
    assert (made.prompt, made.negative) == ("a (red:1.2) house\nin two lines", "blurry, bad")
    assert (made.sampler, made.steps, made.cfg) == ("DPM++ 2M Karras", 20, 7.5)
    assert made.seed is None  # more than this program's seeds reach: not another one
    assert (made.width, made.height, made.model) == (512, 768, "anything-v5")
    assert made.loras == [LoraUse(lora="ink", weight=0.8)]
    assert made.rest["Lora hashes"] == '"ink: 12, x: 3"' and made.tool == "WebUI"


@pytest.mark.parametrize("text", ["", "a cat", "a: b, c: d, e: f", "X: weight 1\nY: seed 2"])
def test_a_text_that_is_something_else_says_nothing(text: str) -> None:
    assert of_webui(text) is None


@pytest.mark.parametrize(
    ("name", "schedule", "here"),
    [
        ("Euler a", "Automatic", "Euler a"), ("DPM++ 2M", "Automatic", "DPM++ 2M Karras"),
        ("DPM++ 2M SDE", "Automatic", "DPM++ 2M SDE Exponential"), ("euler", "", "Euler"),
        ("Euler", "Beta", "Euler Beta"), ("Euler", "SGM Uniform", "Euler SGM Uniform"),
        ("Restart", "Karras", "Restart Karras"),
    ],
)  # fmt: skip
def test_samplers_of_others_have_the_names_they_have_here(
    name: str, schedule: str, here: str
) -> None:
    assert sampler(name, schedule) == here


SPECS = [
    PictureSpec(base="starter", prompt="a (red:1.2) cat", negative="bad, worse", width=64,
                height=128, cfg=3.5, seed=2**40, sampler="DPM++ SDE Karras", steps=31),
    PictureSpec(base="starter", prompt="x", width=64, height=64, second=SecondPass(
        scale=1.5, strength=0.4, steps=9, upscaler="Lanczos"), variation=Variation(seed=7,
        strength=0.25), loras=[LoraUse(lora="ink", weight=-0.5, text_weight=0.25, begin=0.25)]),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_what_we_write_asks_for_the_same_picture_again(spec: PictureSpec) -> None:
    text = parameters_text(spec, model=spec.base, model_hash="ab", lora_hashes={"ink": "cd"})
    made = read({"parameters": text})
    assert made is not None and made.tool == "lora-tui"
    assert again(made, ["other", "starter"], ["ink"]) == (spec, [])
    told = of_webui(webui(made))  # as it is copied
    assert told is not None and again(told, ["starter"], ["ink"])[0] == spec


def test_what_cannot_be_had_again_is_said() -> None:
    made = Made(
        prompt="x", model="gone", loras=[LoraUse(lora="lost")], sampler="Restart", strength=0.5,
        width=511, height=512, steps=5000, second=SecondPass(), rest={"Hires upscaler": "4x-Ultra"},
    )  # fmt: skip
    spec, left = again(made, ["starter"], [])
    assert spec.base == "starter" and not spec.loras and spec.width == 0
    said = " ".join(left)
    for words in ("gone", "lost", "Restart", "begun from", "of 8 pixels", "5000", "4x-Ultra",
                  "seed"):  # fmt: skip
        assert words in said
    spec, left = again(made, ["starter"], [], ["Soft", "4x-ultra"])  # the network is here
    assert spec.second == SecondPass(upscaler="4x-ultra") and "4x-Ultra" not in " ".join(left)


def test_comfyui_graphs_are_followed_back_from_the_first_sampler() -> None:
    made = read({"prompt": json.dumps(GRAPH), "workflow": "{}"})
    assert made is not None
    assert (made.prompt, made.negative, made.seed) == ("a green tree", "ugly", 42)
    assert (made.sampler, made.steps, made.cfg) == ("DPM++ 2M Karras", 25, 6.5)
    assert (made.width, made.height, made.model) == (832, 1216, "xl")
    assert made.loras == [
        LoraUse(lora="ink", weight=0.7, text_weight=0.5), LoraUse(lora="cat", weight=1.0)
    ]  # fmt: skip


def test_a_graph_in_a_circle_or_of_nonsense_says_little_and_ends() -> None:
    circle = {"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["1", 0],
              "latent_image": ["1", 0], "seed": {"a": []}, "steps": True}}}  # fmt: skip
    made = read({"prompt": json.dumps(circle)})
    assert made is not None and made.prompt == "" and made.steps is None
    for text in ("[" * 100_000, "[]", "{}", "null", '{"1": 3}', "{nonsense"):
        assert read({"prompt": text}) is None


def test_invokeai_and_novelai_say_it_in_json() -> None:
    invoke = {"positive_prompt": "a cat", "negative_prompt": None, "seed": 7, "steps": 30,
              "cfg_scale": 7.5, "scheduler": "dpmpp_2m_k", "model": {"name": "sdxl"},
              "loras": [{"model": {"name": "ink"}, "weight": 0.5}]}  # fmt: skip
    made = read({"invokeai_metadata": json.dumps(invoke)})
    assert made is not None and (made.sampler, made.model) == ("DPM++ 2M Karras", "sdxl")
    assert made.loras == [LoraUse(lora="ink", weight=0.5)]
    novel = {"prompt": "1girl", "uc": "bad", "seed": 9, "scale": 5, "sampler": "k_euler_ancestral"}
    made = read({"Comment": json.dumps(novel), "Software": "NovelAI"})
    assert made is not None and (made.negative, made.sampler) == ("bad", "Euler a")


def shown(id: str, rating: int = 0, **made: Any) -> Shown:
    return Shown(id=id, path=f"/p/{id}.png", origin="made", width=8, height=8,
                 created=float(ord(id)), rating=rating, made=Made(**made))  # fmt: skip


def test_the_filter_asks_words_and_fields() -> None:
    pictures = [
        shown("a", 5, prompt="a Red cat", seed=7, tool="ComfyUI", sampler="Euler a"),
        shown("b", 2, prompt="a dog", negative="cat", loras=[LoraUse(lora="ink")]),
        shown("c", prompt="14:30, a train", model="sdxl"),
    ]
    for text, found in {
        "": "abc", "cat": "ab", "cat red": "a", "-cat": "c", "rating:4": "a", "rating:0": "c",
        "seed:7": "a", "tool:comfy": "a", "lora:ink": "b", "model:SDXL": "c",
        'sampler:"euler a"': "a", '"14:30, a"': "c", "from:made -rating:1": "c", "c.png": "c",
    }.items():  # fmt: skip
        assert "".join(one.id for one in pictures if reader(text)(one)) == found, text
    for text in ("colour:red", "rating:6", "from:mars", "seed:abc"):
        with pytest.raises(LoraError):
            reader(text)
    assert [one.id for one in ordered(pictures, "best")] == ["a", "b", "c"]
    assert [one.id for one in ordered(pictures, "newest")] == ["c", "b", "a"]
    assert [one.id for one in ordered(pictures, "prompt")] == ["c", "b", "a"]


def test_a_picture_becomes_a_mix_and_what_it_has_not_is_said() -> None:
    spec = PictureSpec(base="b", prompt="x", loras=[LoraUse(lora="ink", weight=0.5)], seed=3,
                       start=Start(picture="/a.png"),
                       variation=Variation(seed=1, strength=0.5))  # fmt: skip
    live = MixSpec(base="b", preview=Preview(lora="lcm"), seed=9)
    mix = mixes.of_picture(spec, live)
    assert mix.preview == live.preview  # how one looks at it, not what it is made of
    assert mixes.of_picture(spec, MixSpec(base="c", preview=live.preview)).preview is None
    assert mixes.picture(mix) == PictureSpec(base="b", prompt="x", seed=3, loras=spec.loras)
    (left,) = mixes.left_of(spec)
    assert "variation" in left and "begun from" in left
    second = SecondPass(scale=1.5, upscaler="4x-Ultra")
    large = mixes.of_picture(PictureSpec(second=second), replace(live, decoder="full"))
    assert (large.second, large.decoder) == (second, "full")
