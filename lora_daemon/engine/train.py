"""Training: the loop, top to bottom.

Everything around it (pausing, saving, sampling, telling) happens in ``Session.steps`` between two
steps, and reads what ``Session.record`` was told.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.feed import Batch, Feed
from lora_daemon.engine.graphs import recorder
from lora_daemon.engine.objectives import objective, wanted
from lora_daemon.engine.preservation import Preservation
from lora_daemon.engine.replayed import Learn, Replayed
from lora_daemon.engine.session import Session
from lora_daemon.engine.together import OVER, Together
from lora_daemon.schedules import learning_rate
from shared.recipe import Recipe


def train(
    recipe: Recipe, base: Base, adapter: Adapter, optimizer: torch.optim.Optimizer, feed: Feed,
    session: Session, together: Together | None = None, learner: Base | None = None,
) -> None:  # fmt: skip
    """Fit the adapter so that the base predicts the noise in the run's pictures.

    The objective is L = E ‖ε - ε_θ(√ᾱ_t x₀ + √(1-ᾱ_t) ε, t, c)‖² (Ho et al.,
    https://arxiv.org/abs/2006.11239), in the latents x₀ (https://arxiv.org/abs/2112.10752). A base
    that flows has 1 - σ and σ in the place of √ᾱ and √(1-ᾱ), and predicts ε - x₀.
    ``together``: the processes that do each step's parts, which this one leads. ``learner``: the
    base as it is to be called while it learns, if it was compiled.
    """
    together = together or Together(feed.parts)
    errors = Errors(recipe, base, adapter, learner)

    for step in session.steps():
        together.begin(step, adapter.vector.data)
        step_loss, seen = errors.of_step(feed, step, together)
        pictures = feed.pictures(step)
        session.saw(pictures, *seen[:, : len(pictures)])

        norm = clip(adapter.gradient, recipe.optimizer.max_grad_norm, base.loss_scale)
        for group in optimizer.param_groups:
            rate = group["initial_lr"]
            group["lr"] = learning_rate(recipe.schedule, rate, step, session.total)
        optimizer.step()
        adapter.gradient.zero_()
        adapter.settle(step)

        first = optimizer.param_groups[0]
        session.record(step_loss, first["lr"] * first.get("d", 1.0), norm)  # d: Prodigy's find
    together.begin(OVER, adapter.vector.data)


def follow(
    recipe: Recipe, base: Base, adapter: Adapter, feed: Feed, together: Together,
    learner: Base | None = None,
) -> None:  # fmt: skip
    """Do this process's parts of each step that the leader begins, until all is OVER."""
    errors = Errors(recipe, base, adapter, learner)
    while (step := together.begin(OVER, adapter.vector.data)) != OVER:
        errors.of_step(feed, step, together)
        adapter.gradient.zero_()


class Errors:
    """What the adapter gets wrong in a step, and the gradient of it."""

    def __init__(
        self, recipe: Recipe, base: Base, adapter: Adapter, learner: Base | None
    ) -> None:  # fmt: skip
        self.base, self.adapter = base, adapter
        self.learn = _learning(recipe, base, adapter, learner or base)
        record = recorder(base.device)
        # What draws on the way, reads words, or computes twice to save memory is not recorded.
        if record and not (
            adapter.dropout.on
            or recipe.training.checkpointing
            or recipe.loss.preservation
            or recipe.optimizer.text_encoder_rate
        ):
            self.learn = Replayed(self.learn, adapter.gradient, record)

    def of_step(self, feed: Feed, step: int, together: Together) -> tuple[Tensor, Tensor]:
        """Do this process's parts of a step. The leader's gradient becomes the step's; returned are
        the loss, a scalar, and by slot the timestep and the plain error of each picture, (2,
        pictures of a step): the whole step's for the leader."""
        step_loss = torch.zeros((), device=self.base.device)
        seen = torch.zeros(2, feed.per_step, device=self.base.device)
        for part in together.own:
            step_loss += self._learnt_from(feed, step, part, seen)
        together.add_up(self.adapter.gradient, step_loss, seen)
        return step_loss, seen

    def _learnt_from(self, feed: Feed, step: int, part: int, seen: Tensor) -> Tensor:
        """Add the part's share of the step's gradient to the adapter's; returns its share of the
        loss, a scalar. ``seen`` is given each picture's timestep and plain error."""
        part_loss = torch.zeros((), device=self.base.device)
        self.adapter.dropout.begin(step, part)
        for batch in feed.batches(step, part):
            loss, each = self.learn(batch)
            part_loss += loss
            seen[:, batch.first : batch.first + len(each)] = torch.stack(
                (batch.timesteps.to(each.dtype), each)
            )
        return part_loss


def _learning(recipe: Recipe, base: Base, adapter: Adapter, learner: Base) -> Learn:
    """What adds a batch's share of the step's gradient to the adapter's."""
    signal = base.signal.to(base.device)[:, None, None, None]  # √ᾱ_t
    spread = base.spread.to(base.device)[:, None, None, None]  # √(1-ᾱ_t)
    loss_of = objective(recipe.loss, base)
    preserves = recipe.loss.preservation
    preserved = Preservation(recipe, base, adapter, loss_of) if preserves else None

    def learn(batch: Batch) -> tuple[Tensor, Tensor]:
        latents, noise, t = batch.latents, batch.noise, batch.timesteps

        with adapter.learning():
            noisy = signal[t] * latents + spread[t] * batch.mixed
            predicted = learner.denoise(noisy, t, batch.text, batch.views)
            target = wanted(base.objective, latents, noise, signal[t], spread[t])
            loss = loss_of(predicted, target, t, batch.counts)
            if preserved is not None:
                loss = loss + preserved.loss(learner, noisy, t, batch.views)

            (loss * (base.loss_scale * batch.share)).backward()  # type: ignore[no-untyped-call]
        each = ((predicted.detach() - target) ** 2).mean(dim=(1, 2, 3))
        return loss.detach() * batch.share, each

    return learn


def clip(gradient: Tensor, longest: float, scale: float = 1.0) -> Tensor:
    """Take the loss's ``scale`` out of a gradient and shorten it to ``longest`` (0: leave it), in
    place, without waiting for the device.

    Returns its norm before that, a float32 scalar.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient) / scale
    if longest:
        gradient.mul_((longest / (norm + 1e-6)).clamp(max=1.0) / scale)
    elif scale != 1.0:
        gradient.div_(scale)
    return norm
