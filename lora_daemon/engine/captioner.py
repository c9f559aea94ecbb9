"""Captioners: networks that say what a picture shows, behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, BlipForConditionalGeneration, BlipProcessor

from lora_daemon.engine.bases import DTYPES, best_precision
from lora_daemon.engine.cache import PictureError, load_picture
from lora_daemon.engine.device import free_cache, out_of_memory
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed

BATCH = 8  # pictures at once, to begin with
LONGEST = 60  # tokens of a caption; the text encoder reads 75


class Captioner(Protocol):
    """Says what pictures show."""

    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One caption a picture, in order, for RGB pictures of any sizes."""


class Blip:
    """BLIP (Li et al. 2022) as transformers has it."""

    def __init__(self, path: Path, device: torch.device) -> None:
        dtype = DTYPES[best_precision(device)]
        self._processor = BlipProcessor.from_pretrained(path, local_files_only=True)
        network = BlipForConditionalGeneration.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        self._network = network.to(device).eval()
        self._device, self._dtype = device, dtype

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        pixels = self._processor(images=list(pictures), return_tensors="pt").pixel_values
        tokens = self._network.generate(
            pixel_values=pixels.to(self._device, self._dtype), max_new_tokens=LONGEST,
            do_sample=False, num_beams=1,
        )  # fmt: skip
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def load(path: Path, device: torch.device) -> Captioner:
    """The captioner in a folder, as transformers saves it.

    Raises LoraError: NOT_FOUND, INVALID_FILE for what is no captioner that is known here.
    """
    if not path.is_dir():
        raise LoraError(Code.NOT_FOUND, f"There is no folder {to_text(path)}.")
    try:
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        if kind == "blip":
            return Blip(path, device)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} is no whole captioner ({first}). It takes config.json, "
            "preprocessor_config.json or processor_config.json, the tokenizer's files and "
            "model.safetensors.",
        ) from None
    raise LoraError(
        Code.INVALID_FILE,
        f"{to_text(path)} is {kind!r}; the captioners that are known here are BLIP.",
    )


def describe(
    captioner: Captioner, pictures: Sequence[tuple[str, str]], check: Callable[[], None]
) -> Iterator[tuple[list[tuple[str, str]], list[tuple[str, str]], int]]:
    """Caption pictures, given as (item, path), a batch at a time.

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
            texts = captioner([picture for _, picture in ready]) if ready else []
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
