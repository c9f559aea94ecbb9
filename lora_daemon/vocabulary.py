"""CLIP's vocabulary, the same for every Stable Diffusion, from the package that carries it.

A base as one file holds no tokenizer. ``openai-clip`` ships the merges of OpenAI's byte-pair
encoding; nothing of it is imported, only that one file is read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

from shared.errors import Code, LoraError

START, END = "<|startoftext|>", "<|endoftext|>"
_FILE = "bpe_simple_vocab_16e6.txt.gz"
_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
SIZE = 49408  # tokens: 256 bytes, as many that end a word, the merges, start and end


class Vocabulary(msgspec.Struct, frozen=True):
    """A byte-pair encoding: the number of each token, and the merges in their order."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]

    def files(self) -> tuple[bytes, bytes]:
        """As ``vocab.json`` and ``merges.txt``."""
        lines = ["#version: 0.2", *(f"{one} {two}" for one, two in self.merges), ""]
        return json.dumps(self.tokens, ensure_ascii=False).encode(), "\n".join(lines).encode()


@cache
def clip() -> Vocabulary:
    """Raises LoraError: WRONG_STATE where the package is not installed, INVALID_FILE."""
    path = _find()
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != _SHA256:
        raise LoraError(
            Code.INVALID_FILE,
            f"{path} is not CLIP's vocabulary. Install it again: pip install --force-reinstall "
            "openai-clip",
        )
    letters = [*_bytes()]
    words = letters + [letter + "</w>" for letter in letters]
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    count = SIZE - len(words) - 2
    merges = [(one, two) for one, two in (line.split() for line in lines[1 : count + 1])]
    words += [one + two for one, two in merges] + [START, END]
    return Vocabulary({word: number for number, word in enumerate(words)}, merges)


def _find() -> Path:
    for package in ("clip", "open_clip"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            if (path := Path(folder) / _FILE).is_file():
                return path
    raise LoraError(
        Code.WRONG_STATE,
        "A base as one file needs CLIP's vocabulary, which is not installed: "
        "pip install openai-clip",
    )


def _bytes() -> list[str]:
    """The letter that stands for each byte, in the order of the vocabulary: the printable ones as
    they are, then the others as letters beyond them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(one) for one in printable] + [chr(256 + number) for number in range(others)]
