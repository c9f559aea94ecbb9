"""The captioners that have names: what each is for, and where on the Hugging Face Hub it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Captioner:
    hub: str  # owner/name; empty: built in
    good_for: str
    tagger: bool = False


CAPTIONERS = {
    "starter": Captioner("", "the starter's world"),
    "blip": Captioner("Salesforce/blip-image-captioning-large", "a short sentence"),
    "florence-2": Captioner("florence-community/Florence-2-large", "a sentence or a paragraph"),
    "qwen3-vl": Captioner("Qwen/Qwen3-VL-4B-Instruct", "what your prompt asks, 9 GB"),
    "smolvlm": Captioner("HuggingFaceTB/SmolVLM-Instruct", "what your prompt asks, 5 GB"),
    "joycaption": Captioner(
        "fancyfeast/llama-joycaption-beta-one-hf-llava", "what your prompt asks, 17 GB"
    ),
    "wd-eva02": Captioner("SmilingWolf/wd-eva02-large-tagger-v3", "tags of drawings", tagger=True),
    "wd-vit": Captioner("SmilingWolf/wd-vit-tagger-v3", "tags of drawings", tagger=True),
    "wd-swinv2": Captioner("SmilingWolf/wd-swinv2-tagger-v3", "tags of drawings", tagger=True),
}
