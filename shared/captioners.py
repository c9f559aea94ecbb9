"""The captioners that have names: what each is for, and where on the Hugging Face Hub it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Captioner:
    key: str  # that chooses it in the terminal
    hub: str  # owner/name; empty: built in
    good_for: str
    asks: Literal["nothing", "prompt", "threshold"] = "nothing"
    tasks: tuple[str, ...] = ()  # the only prompts it takes


FLORENCE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
CAPTIONERS = {
    "starter": Captioner("s", "", "the starter's world"),
    "blip": Captioner("b", "Salesforce/blip-image-captioning-large", "one short sentence"),
    "florence-2": Captioner(
        "f", "florence-community/Florence-2-large", "a sentence or a paragraph", "prompt",
        FLORENCE_TASKS,
    ),
    "qwen3-vl": Captioner("v", "Qwen/Qwen3-VL-4B-Instruct", "what you ask of it", "prompt"),
    "smolvlm": Captioner("m", "HuggingFaceTB/SmolVLM-Instruct", "what you ask of it", "prompt"),
    "joycaption": Captioner(
        "y", "fancyfeast/llama-joycaption-beta-one-hf-llava", "what you ask of it", "prompt"
    ),
    "wd-eva02": Captioner(
        "e", "SmilingWolf/wd-eva02-large-tagger-v3", "tags of drawings", "threshold"
    ),
    "wd-vit": Captioner("t", "SmilingWolf/wd-vit-tagger-v3", "tags of drawings", "threshold"),
    "wd-swinv2": Captioner("w", "SmilingWolf/wd-swinv2-tagger-v3", "tags of drawings", "threshold"),
}  # fmt: skip
