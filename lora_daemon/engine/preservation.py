"""Output preservation: the base is the teacher of what is not the subject.

On the caption of its class the adapter is to predict what the base alone predicts (distilling the
prior, without pictures of the class: https://arxiv.org/abs/2208.12242).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.captions import reading
from lora_daemon.engine.objectives import Objective
from shared.recipe import Recipe


class Preservation:
    """The loss that keeps a class as it was. Costs a step's forward twice and its backward once."""

    def __init__(self, recipe: Recipe, base: Base, adapter: Adapter, loss_of: Objective) -> None:
        self.weight = recipe.loss.preservation
        self._caption = recipe.loss.class_caption
        self._reading = reading(recipe)
        self._learns_text = recipe.optimizer.text_encoder_rate > 0
        self._base, self._adapter, self._loss_of = base, adapter, loss_of
        with adapter.set_aside():
            self._text = base.encode_text(self._caption, self._reading).to(base.dtype)

    def loss(
        self, learner: Base, noisy: Tensor, timesteps: Tensor, views: Tensor | None
    ) -> Tensor:  # fmt: skip
        """Weighted, a scalar. ``learner``: the base as it is trained, compiled or not; ``noisy``:
        the step's latents with their noise."""
        count = len(noisy)
        known = self._text.expand(count, -1, -1)
        with torch.no_grad(), self._adapter.set_aside():
            taught = self._base.denoise(noisy, timesteps, known, views)
        text = known
        if self._learns_text:
            text = self._base.encode_texts([self._caption], self._reading)
            text = text.to(self._base.dtype).expand(count, -1, -1)
        kept = learner.denoise(noisy, timesteps, text, views)
        return self.weight * self._loss_of(kept, taught, timesteps, None)
