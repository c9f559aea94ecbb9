"""Captioners of transformers' own classes: what each family takes beside a picture, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lora_daemon.engine.bases import DTYPES, best_precision
from lora_daemon.pipe import Manner
from shared.captioners import FLORENCE_TASKS
from shared.errors import Code, LoraError
from shared.filenames import to_text

_SHORT = "Describe this picture in one sentence of at most 40 words. Say only what it shows."


@dataclass(frozen=True)
class Kind:
    """How a family of captioners is asked.

    ``takes`` beside a picture: nothing, one of a few task words, or a conversation by the template
    that came with the model, whose answer then follows the question. ``prompt`` and ``longest``
    (tokens of an answer) hold where nothing else is said.
    """

    name: str
    takes: Literal["nothing", "task", "conversation"]
    prompt: str = ""
    longest: int = 60  # the text encoder of a Stable Diffusion reads 75


def _chat(name: str) -> Kind:
    return Kind(name, "conversation", _SHORT, 120)


KINDS = {  # by config.json's model_type
    "blip": Kind("BLIP", "nothing"),
    "florence2": Kind("Florence-2", "task", "<DETAILED_CAPTION>", 120),
    "gemma3": _chat("Gemma 3"),
    "idefics3": _chat("SmolVLM"),  # its first version's name for itself
    "llava": _chat("LLaVA or JoyCaption"),
    "llava_next": _chat("LLaVA-NeXT"),
    "qwen2_vl": _chat("Qwen2-VL"),
    "qwen2_5_vl": _chat("Qwen2.5-VL"),
    "qwen3_vl": _chat("Qwen3-VL"),
    "smolvlm": _chat("SmolVLM"),
}


class VisionLanguage:
    """A network that takes pictures with words and answers in words, the likeliest each time."""

    warning = ""

    def __init__(self, path: Path, device: torch.device, kind: Kind, manner: Manner) -> None:
        """Raises LoraError(BAD_REQUEST) for what this kind cannot be asked; OSError, ValueError,
        ImportError as transformers does."""
        _refuse(kind, manner)
        self._path, self._kind, self._device = path, kind, device
        self._longest = manner.max_tokens or kind.longest
        self._dtype = DTYPES[best_precision(device)]
        self._processor: Any = AutoProcessor.from_pretrained(path, local_files_only=True)
        network = AutoModelForImageTextToText.from_pretrained(
            path, dtype=self._dtype, local_files_only=True, use_safetensors=True
        )
        self._network = network.to(device).eval()

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str] = ()) -> list[str]:
        inputs = self.inputs(pictures, prompts)
        tokens = self._network.generate(
            **inputs, max_new_tokens=self._longest, do_sample=False, num_beams=1
        )
        if self._kind.takes == "conversation":
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def inputs(self, pictures: Sequence[Image.Image], prompts: Sequence[str] = ()) -> Any:
        """What the network is given, on its device: pixels, and tokens where it takes words. An
        empty prompt is the kind's own. Raises LoraError(INVALID_FILE): the chat template fails."""
        said = [prompt or self._kind.prompt for prompt in prompts or [""] * len(pictures)]
        match self._kind.takes:
            case "nothing":
                words, images = {}, list[Any](pictures)
            case "task":
                words, images = {"text": said, "padding": True}, list[Any](pictures)
            case "conversation":
                texts = [self.conversation(prompt) for prompt in said]
                start = self._processor.tokenizer.bos_token  # most templates write it themselves
                words = {
                    "text": texts, "padding": True, "padding_side": "left",
                    "add_special_tokens": not (start and texts[0].startswith(start)),
                }  # fmt: skip
                images = [[picture] for picture in pictures]
        given = self._processor(images=images, **words, return_tensors="pt")
        if self._kind.takes == "nothing":  # BLIP begins by itself
            given = type(given)({"pixel_values": given["pixel_values"]})
        return given.to(self._device, self._dtype)

    def conversation(self, prompt: str) -> str:
        """The question as the model's own template writes it, up to where the answer begins."""
        picture, question = {"type": "image"}, {"type": "text", "text": prompt}
        for content in ([picture, question], prompt):  # some templates take plain text alone
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            if self._processor.image_token in text and "'type':" not in text.replace(prompt, ""):
                return str(text)
        raise LoraError(
            Code.INVALID_FILE,
            f"The chat template in {to_text(self._path)} has no place for a picture. Take the one "
            f"that {self._kind.name} was published with.",
        )


def _refuse(kind: Kind, manner: Manner) -> None:
    if manner.of_tagger:
        raise LoraError(
            Code.BAD_REQUEST,
            f"{kind.name} writes sentences: a threshold, categories and a blacklist are for "
            "taggers such as wd-eva02.",
        )
    if manner.prompt and kind.takes == "nothing":
        raise LoraError(
            Code.BAD_REQUEST,
            f"{kind.name} takes no prompt. Leave it out, or ask florence-2, qwen3-vl, smolvlm or "
            "joycaption.",
        )
    if manner.prompt and kind.takes == "task" and manner.prompt not in FLORENCE_TASKS:
        raise LoraError(
            Code.BAD_REQUEST,
            f"{kind.name} is asked by one of {', '.join(FLORENCE_TASKS)}, not by "
            f"{manner.prompt!r}. Questions in words are for qwen3-vl, smolvlm and joycaption.",
        )
