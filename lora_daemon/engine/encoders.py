"""Text encoders with their tokenizers: from texts to the states that condition a denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_daemon.families import TextEncoder
from shared.errors import Code, LoraError

TOKENS = 77  # CLIP's context, start and end included


@dataclass(frozen=True)
class Reading:
    """How texts are read. ``skip``: the hidden state that many from the last, as kohya and the
    WebUI count (1: the last); ``windows`` of 75 tokens each; their rows ``joined`` as kohya's
    trainers do it, one start and one end for all, or as the WebUI does, one for each."""

    skip: int = 1
    windows: int = 1
    joined: Literal["kohya", "webui"] = "kohya"


ORDINARY = Reading()


@dataclass(eq=False)
class Encoder:
    """A text encoder with its tokenizer. ``names``: module path → name in LoRA files."""

    use: TextEncoder
    tokenizer: Any
    model: Any
    names: dict[str, str]

    @property
    def width(self) -> int:
        """Of the hidden states that it gives; 0 if only its pooled output is used."""
        return 0 if self.use.hidden is None else int(self.model.config.hidden_size)

    @property
    def pooled_width(self) -> int:
        """Of the pooled output that it gives; 0 if none is used."""
        if not self.use.pooled:
            return 0
        config = self.model.config
        return int(config.projection_dim if self.use.pooled == "projected" else config.hidden_size)

    @property
    def length(self) -> int:
        """Tokens that it reads at most, start and end included."""
        return min(self.use.length or TOKENS, int(self.tokenizer.model_max_length))

    def fits(self, text: str, windows: int) -> bool:
        """Whether it reads the whole text."""
        number = len(self.tokenizer(text).input_ids)
        if self.use.kind == "t5":
            return number <= self.length
        return number - 2 <= windows * (TOKENS - 2)

    def encode(self, texts: list[str], reading: Reading) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states (n, rows, width), and the pooled output (n, width), of the first window,
        each if the family uses it. One window of CLIP's has 77 rows. Raises
        LoraError(INVALID_RECIPE) if it is to skip more layers than there are."""
        if self.use.kind == "t5":
            return self._t5(texts), None
        return joined(*self.states(self._tokens(texts, reading.windows), reading), reading)

    def states(self, ids: Tensor, reading: Reading) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states (n, 77, width) of CLIP's windows, whose tokens are int64 (n, 77), and each
        one's pooled output (n, width), each if the family uses it. Raises as ``encode``."""
        layers = int(self.model.config.num_hidden_layers)
        if reading.skip > layers:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"dataset.clip_skip = {reading.skip}, and this base's text encoder has {layers} "
                "layers. 1 reads the last.",
                data={"key": "dataset.clip_skip"},
            )
        found = self.model(
            ids.to(self.model.device),
            output_hidden_states=bool(self.use.hidden) or reading.skip > 1,
        )
        pooled = None
        if self.use.pooled:
            pooled = found.text_embeds if self.use.pooled == "projected" else found.pooler_output
        if self.use.hidden is None:
            return None, pooled
        if self.use.hidden:
            return found.hidden_states[self.use.hidden], pooled
        if reading.skip > 1:
            norm = getattr(self.model, "text_model", self.model).final_layer_norm
            return norm(found.hidden_states[-reading.skip]), pooled
        return found.last_hidden_state, pooled

    def _t5(self, texts: list[str]) -> Tensor:
        """Float32 (n, length, width). What fills up a short text is read like the rest, as FLUX was
        trained: there is no mask."""
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        hidden: Tensor = self.model(ids.to(self.model.device)).last_hidden_state
        return hidden.float()

    def _tokens(self, texts: list[str], windows: int) -> Tensor:
        """Int64 (n · windows, 77): each window with its start, its end, and padding."""
        if windows == 1:
            found = self.tokenizer(
                texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
            )
            ids: Tensor = found.input_ids
            return ids
        own, room = self.tokenizer, TOKENS - 2
        rows = []
        for text in texts:
            words = own(text, add_special_tokens=False).input_ids[: windows * room]
            for begin in range(0, windows * room, room):
                body = [own.bos_token_id, *words[begin : begin + room], own.eos_token_id]
                rows.append(body + [own.pad_token_id] * (TOKENS - len(body)))
        return torch.tensor(rows)


def joined(
    hidden: Tensor | None, pooled: Tensor | None, reading: Reading
) -> tuple[Tensor | None, Tensor | None]:
    """The windows of each text as one: hidden states (texts, rows, width), the first's pooled
    output. ``hidden``: (texts · windows, 77, width)."""
    if reading.windows == 1:
        return hidden, pooled
    if pooled is not None:
        pooled = pooled[:: reading.windows]
    if hidden is None:
        return None, pooled
    apart = hidden.reshape(-1, reading.windows, *hidden.shape[1:])
    if reading.joined == "webui":
        return apart.flatten(1, 2), pooled
    ends = apart[:, 0, :1], apart[:, -1, -1:]
    return torch.cat([ends[0], apart[:, :, 1:-1].flatten(1, 2), ends[1]], 1), pooled


def together(found: Sequence[tuple[Tensor | None, Tensor | None]]) -> Tensor:
    """What each text encoder says, as one conditioning: ``Base.encode_texts`` says how."""
    hidden = torch.cat([states for states, _ in found if states is not None], dim=-1)
    width = hidden.shape[-1]
    pooled = [
        F.pad(one, (0, -one.shape[-1] % width)).reshape(len(one), -1, width)
        for _, one in found
        if one is not None
    ]
    return torch.cat([hidden, *pooled], dim=1)
