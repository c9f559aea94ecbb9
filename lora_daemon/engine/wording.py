"""What prompts say to the UNet, as WebUI users write them: words that count more or less, textual
inversions by their names, and as many windows of 75 tokens as there are words.

A prompt of at most 75 tokens in which nothing of this occurs is read as captions are, bit for bit;
so is every prompt on a base with a T5, which reads prose, brackets and all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.encoders import ORDINARY, TOKENS, Encoder, Reading, joined, together
from shared import emphasis

ROOM = TOKENS - 2  # of a window, without its start and its end
NEAR_COMMA = 20  # tokens: a window that is full ends at a comma no farther back, as in the WebUI
LEVEL = 1e-4  # of the deviation: a mean below is chance
_PLACE = 0  # the token where a vector will stand


@dataclass
class Window:
    """At most 75 tokens: their ids and weights, and the vectors that stand in place of some."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vectors: dict[int, Tensor] = field(default_factory=dict)  # place → vector
    comma: int = 0  # tokens up to the last comma, with it

    def rest(self) -> Window:
        """Takes what stands behind the last comma into another window."""
        since = self.comma
        other = Window(self.ids[since:], self.weights[since:])
        other.vectors = {at - since: one for at, one in self.vectors.items() if at >= since}
        del self.ids[since:], self.weights[since:]
        self.vectors = {at: one for at, one in self.vectors.items() if at < since}
        return other


@contextmanager
def learnt(base: Base, vectors: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Prompts may name these textual inversions: names in lower case."""
    before, base.learnt = base.learnt, vectors
    try:
        yield
    finally:
        base.learnt = before


@torch.no_grad()
def conditioning(base: Base, texts: Sequence[str], reading: Reading = ORDINARY) -> Tensor:
    """What prompts say: (n, rows, width), in the base's precision. All have as many windows as the
    longest; a shorter one goes on with empty ones. Raises as ``Base.encode_texts``."""
    every = list(dict.fromkeys(texts))
    most = max(windows_of(base, text, reading) for text in every)
    if base.reads_prose:
        known = {text: base.encode_text(text, reading) for text in every}
    elif most == reading.windows:
        known = {text: _read(base, text, reading) for text in every}
    else:
        reading = replace(reading, windows=most, joined=_joined(reading))
        known = {text: _weighted(base, text, reading) for text in every}
    return torch.cat([known[text] for text in texts]).to(base.dtype)


def windows_of(base: Base, text: str, reading: Reading = ORDINARY) -> int:
    """How many windows a prompt fills, and at least those of the reading."""
    if base.reads_prose or (_ordinary(base, text) and base.fits(text, reading.windows)):
        return reading.windows
    return max(len(windows(base.encoders[0], text, _vectors(base, 0))), reading.windows)


def windows(encoder: Encoder, text: str, known: Mapping[str, Tensor]) -> list[Window]:
    """A prompt's windows. ``known``: vectors (n, width) by their names in lower case."""
    comma = encoder.tokenizer(",", add_special_tokens=False).input_ids[-1]
    made = []
    for section in emphasis.read(text):
        made.append(Window())
        for part in section:
            for piece, vectors in _pieces(part.text, known):
                if vectors is not None:
                    if len(made[-1].ids) + len(vectors) > ROOM:
                        made.append(Window())
                    last = made[-1]
                    last.vectors |= dict(enumerate(vectors, len(last.ids)))
                    last.ids += [_PLACE] * len(vectors)
                    last.weights += [part.weight] * len(vectors)
                    continue
                for token in encoder.tokenizer(piece, add_special_tokens=False).input_ids:
                    last = made[-1]
                    if len(last.ids) == ROOM:
                        near = last.comma > 0 and ROOM - last.comma <= NEAR_COMMA
                        made.append(last.rest() if near and token != comma else Window())
                        last = made[-1]
                    last.ids.append(token)
                    last.weights.append(part.weight)
                    if token == comma:
                        last.comma = len(last.ids)
    return made


def _joined(reading: Reading) -> Any:
    """A reading of one window says nothing of how several are joined."""
    return reading.joined if reading.windows > 1 else "webui"


def _vectors(base: Base, encoder: int) -> dict[str, Tensor]:
    return {name: vectors[encoder] for name, vectors in base.learnt.items()}


def _ordinary(base: Base, text: str) -> bool:
    return emphasis.plain(text) and all(one is None for _, one in _pieces(text, base.learnt))


def _read(base: Base, text: str, reading: Reading) -> Tensor:
    if _ordinary(base, text):
        return base.encode_text(text, reading)
    return _weighted(base, text, reading)


def _weighted(base: Base, text: str, reading: Reading) -> Tensor:
    """One prompt in the reading's windows, float32 (1, rows, width)."""
    found = []
    for number, encoder in enumerate(base.encoders):
        own = windows(encoder, text, _vectors(base, number))
        own += [Window() for _ in range(reading.windows - len(own))]
        with _standing(encoder, own):
            hidden, pooled = encoder.states(_ids(encoder, own), reading)
        assert hidden is not None  # only beside a T5 is a CLIP there for its pooled output alone
        found.append(joined(_emphasised(hidden, own), pooled, reading))
    return together(found)


def _ids(encoder: Encoder, own: Sequence[Window]) -> Tensor:
    """Int64 (windows, 77): each with its start, its end, and padding."""
    start, end, padding = (
        encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id,
        encoder.tokenizer.pad_token_id,
    )  # fmt: skip
    return torch.tensor([[start, *one.ids, end] + [padding] * (ROOM - len(one.ids)) for one in own])


def _emphasised(hidden: Tensor, own: Sequence[Window]) -> Tensor:
    """Rows times their weights; then each window's mean is what it was, as in the WebUI."""
    weights = torch.tensor(
        [[1.0, *one.weights] + [1.0] * (TOKENS - 1 - len(one.weights)) for one in own]
    )
    if bool((weights == 1).all()):
        return hidden
    weighted = hidden * weights.to(hidden)[..., None]
    before, after = (one.mean((1, 2), keepdim=True) for one in (hidden, weighted))
    chance = LEVEL * weighted.std((1, 2), keepdim=True)  # a mean that is none is not to be kept
    steady = (before.abs() > chance) & (after.abs() > chance)
    return weighted * torch.where(steady, before / after, torch.ones_like(after))


@contextmanager
def _standing(encoder: Encoder, own: Sequence[Window]) -> Iterator[None]:
    """The encoder takes the windows' vectors in place of its tokens' embeddings."""
    if not any(one.vectors for one in own):
        yield
        return

    def instead(module: object, ids: object, found: Tensor) -> Tensor:
        found = found.clone()
        for row, one in enumerate(own):
            for place, vector in one.vectors.items():
                found[row, place + 1] = vector.to(found)
        return found

    table: Any = encoder.model.get_input_embeddings()
    hook = table.register_forward_hook(instead)
    try:
        yield
    finally:
        hook.remove()


def _pieces(text: str, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Text as it stands, and what the names in it stand for, in turn."""
    if not known:
        yield text, None
        return
    since = 0
    for match in emphasis.naming(known).finditer(text):
        if before := text[since : match.start()]:
            yield before, None
        yield match[0], known[match[0].lower()]
        since = match.end()
    if rest := text[since:]:
        yield rest, None
