"""WD v3 taggers: booru tags of drawings, by a network in ONNX.

Source: SmilingWolf's wd-*-tagger-v3, and the program its author shows them with.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lora_daemon.pipe import Manner
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.wire import TagCategory

TAGS, NETWORK = "selected_tags.csv", "model.onnx"
GENERAL, CHARACTER = 0.35, 0.85  # probabilities from which on a tag is said: the author's
_CATEGORIES: dict[str, TagCategory] = {"9": "rating", "0": "general", "4": "character"}
_KAOMOJI = frozenset(
    {
        "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9",
        ">_o", "@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||",
    }
)  # fmt: skip


class Session(Protocol):
    """What is used of an onnxruntime.InferenceSession."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with a name and a shape."""

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> Sequence[Any]:
        """The outputs for these inputs."""


@dataclass(frozen=True)
class Tag:
    name: str  # as a caption has it
    category: TagCategory


class Tagger:
    """Says a drawing's tags, of each category the likeliest first."""

    warning = (
        "This tagger knows drawings (anime, manga). Of photographs it says much that is wrong: "
        "take florence-2 or blip for those."
    )

    def __init__(self, session: Session, tags: Sequence[Tag], manner: Manner) -> None:
        """Raises LoraError(BAD_REQUEST) for what a tagger cannot be asked."""
        if manner.prompt or manner.max_tokens:
            raise LoraError(
                Code.BAD_REQUEST, "A tagger takes no prompt and writes no tokens: leave them out."
            )
        self._session, self._tags = session, tags
        given = session.get_inputs()[0]
        self._name, self._side = given.name, int(given.shape[1])  # N, height, width, 3
        self._categories = manner.categories or ("character", "general")
        said = manner.threshold
        self._least = {
            "general": GENERAL if said is None else said,
            "character": CHARACTER if said is None else said,
        }
        self._never = {spelled(name.strip()).casefold() for name in manner.blacklist}

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str] = ()) -> list[str]:
        pixels = np.stack([pixels_of(picture, self._side) for picture in pictures])
        rows = np.asarray(self._session.run(None, {self._name: pixels})[0])
        return [", ".join(self._chosen(row)) for row in rows]

    def _chosen(self, probabilities: np.ndarray) -> list[str]:
        """Tags of one picture, from a probability for each tag of the table."""
        order = [int(i) for i in np.argsort(-probabilities, kind="stable")]
        said = list[str]()
        for category in self._categories:
            found = [i for i in order if self._tags[i].category == category]
            if category == "rating":  # they exclude each other
                found = found[:1]
            else:
                found = [i for i in found if probabilities[i] >= self._least[category]]
            said += [self._tags[i].name for i in found]
        return [name for name in said if name.casefold() not in self._never]


def load(path: Path, manner: Manner) -> Tagger:
    """The tagger in a folder. Raises LoraError: INVALID_FILE, WRONG_STATE (no onnxruntime)."""
    tags = read_tags(path / TAGS)
    tagger = Tagger(_session(path / NETWORK), tags, manner)
    return tagger


def read_tags(path: Path) -> list[Tag]:
    """The table of what a tagger's outputs stand for. Raises LoraError(INVALID_FILE)."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                Tag(spelled(row["name"]), _CATEGORIES[row["category"]])
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path)} is no table of a WD tagger ({error!r}): it has the columns name and "
            "category, and of category 0 (general), 4 (character) and 9 (rating).",
        ) from None


def spelled(name: str) -> str:
    """A tag as captions have it: words apart, but faces whole."""
    return name if name in _KAOMOJI else name.replace("_", " ")


def pixels_of(picture: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3) float32, 0 to 255, blue first, of a picture in the middle of a white
    square."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    if longest != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, np.float32)[:, :, ::-1])


def _session(path: Path) -> Session:
    if not path.is_file():
        raise LoraError(
            Code.INVALID_FILE,
            f"{to_text(path.parent)} has no {NETWORK}. A WD tagger is {NETWORK} and {TAGS}.",
        )
    try:
        import onnxruntime
    except ImportError:
        raise LoraError(
            Code.WRONG_STATE,
            "Taggers need onnxruntime, which is not installed where the daemon runs: "
            'pip install "lora-tui[captioners]", then lora-tui daemon restart.',
        ) from None
    there = onnxruntime.get_available_providers()
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    try:
        session: Session = onnxruntime.InferenceSession(
            str(path), providers=[one for one in wanted if one in there]
        )
    except Exception as error:  # onnxruntime's own classes have no common base but this
        first = str(error).strip().partition("\n")[0]
        raise LoraError(
            Code.INVALID_FILE, f"{to_text(path)} is no network in ONNX ({first})."
        ) from None
    return session
