"""Captioners: networks that say what a picture shows, behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig

from lora_daemon.engine import tagger
from lora_daemon.engine.cache import PictureError, load_picture
from lora_daemon.engine.device import free_cache, out_of_memory
from lora_daemon.engine.vision_language import KINDS, VisionLanguage
from lora_daemon.pipe import Manner
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed

BATCH = 8  # pictures at once, to begin with
_PLAINLY = Manner()


class Captioner(Protocol):
    """Says what pictures show."""

    warning: str  # what whoever asks it should know, or nothing

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str] = ()) -> list[str]:
        """One caption a picture, in order, for RGB pictures of any sizes. ``prompts`` are as many,
        or none where it is to use its own."""


def load(path: Path, device: torch.device, manner: Manner = _PLAINLY) -> Captioner:
    """The captioner in a folder: a WD tagger, or what transformers saves of the kinds known here.

    Raises LoraError: NOT_FOUND, INVALID_FILE for what is no captioner that is known here,
    BAD_REQUEST for what this one cannot be asked, WRONG_STATE where a package is missing.
    """
    if not path.is_dir():
        raise LoraError(Code.NOT_FOUND, f"There is no folder {to_text(path)}.")
    if (path / tagger.TAGS).exists():
        return tagger.load(path, manner)
    kind = None
    try:
        model_type = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        if kind := KINDS.get(model_type):
            return VisionLanguage(path, device, kind, manner)
    except ImportError as error:
        raise LoraError(
            Code.WRONG_STATE,
            f"{kind.name if kind else to_text(path)} needs packages that are not installed where "
            f"the daemon runs ({_first_line(error).partition('. ')[0]}): "
            'pip install "lora-tui[captioners]", then lora-tui daemon restart.',
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} is no whole captioner ({_first_line(error)}). It takes config.json, "
            "preprocessor_config.json or processor_config.json, the tokenizer's files and "
            "model.safetensors; a WD tagger, model.onnx and selected_tags.csv.",
        ) from None
    names = ", ".join(sorted({kind.name for kind in KINDS.values()}))
    raise LoraError(
        Code.INVALID_FILE,
        f"{to_text(path)} is {model_type!r}; the captioners that are known here are {names}, and "
        "WD taggers.",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def describe(
    captioner: Callable[[Sequence[Image.Image], Sequence[str]], list[str]],
    pictures: Sequence[tuple[str, str]],
    check: Callable[[], None],
    prompts: Mapping[str, str] | None = None,
) -> Iterator[tuple[list[tuple[str, str]], list[tuple[str, str]], int]]:
    """Caption pictures, given as (item, path), a batch at a time. ``prompts`` are by item.

    Yields captions as (item, text), what was skipped as (item, reason), and the batch size, halved
    each time the memory did not suffice. ``check`` is called before each batch and may raise.
    Raises the device's error if the memory is not enough for one picture.
    """
    batch, left = BATCH, list(pictures)
    while left:
        check()
        skipped, ready = list[tuple[str, str]](), list[tuple[str, Image.Image]]()
        for item, path in left[:batch]:
            try:
                ready.append((item, load_picture(Path(typed(path)))))
            except PictureError as error:
                skipped.append((item, str(error)))
        try:
            shown = [picture for _, picture in ready]
            asked = [prompts[item] for item, _ in ready] if prompts else []
            texts = captioner(shown, asked) if ready else []
        except Exception as error:
            if not out_of_memory(error) or batch == 1:
                raise
            texts = None
        if texts is None:  # only here: the error's frames held on to what they had allocated
            batch //= 2
            free_cache()
            continue
        left = left[batch:]
        captions = list[tuple[str, str]]()
        for (item, _), text in zip(ready, texts, strict=True):
            if text:
                captions.append((item, text))
            else:
                skipped.append((item, "the captioner has nothing to say of it"))
        yield captions, skipped, batch
