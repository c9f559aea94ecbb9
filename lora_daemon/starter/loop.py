"""The training loop shared by the starter's networks: resumable, seeded step by step, one bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

SAVE_EVERY_SECONDS = 60.0


@dataclass
class Schedule:
    """How long a network trains, and at what rate: a warm-up, then linearly down to zero."""

    steps: int
    rate: float = 1e-3
    warm_up: int = 100

    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warm_up) * max(0.0, 1 - step / self.steps)


class Average:
    """A running average of a module's weights (EMA); the decay grows to `decay` as steps go by."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)


class Bar:
    """A one-line progress bar on stderr; when stderr is not a terminal, a line twice a minute."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.began, self.shown, self.first = (
            title,
            total,
            time.monotonic(),
            0.0,
            -1,
        )

    def show(self, step: int, note: str) -> None:
        now, terminal = time.monotonic(), sys.stderr.isatty()
        self.first = step - 1 if self.first < 0 else self.first
        if step < self.total and now - self.shown < (0.5 if terminal else 30):
            return
        self.shown = now
        rate = (step - self.first) / max(now - self.began, 1e-6)
        filled = round(24 * step / self.total)
        left = (self.total - step) / max(rate, 1e-6)
        line = (
            f"{self.title:<12} {'█' * filled}{'░' * (24 - filled)} {step}/{self.total}"
            f"  {rate:.2f}/s  {int(left // 60)}:{int(left % 60):02d} left  {note}"
        )
        end = "\r" if terminal and step < self.total else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


def train(
    title: str,
    network: nn.Module,
    schedule: Schedule,
    loss_at: Callable[[torch.Generator], torch.Tensor],
    state_file: Path,
    *,
    seed: int,
    average: Average | None = None,
    note: Callable[[float], str] = lambda loss: f"loss {loss:.4f}",
) -> None:
    """Train `network` in place with Adam; `loss_at` gets a generator made of seed and step only.

    The state is written to `state_file` about once a minute, and found there again after a kill.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=schedule.rate, betas=(0.9, 0.99))
    step = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        if average is not None:
            average.weights = state["average"]
        step = state["step"]
    network.train()
    bar, saved, smooth = Bar(title, schedule.steps), time.monotonic(), 0.0
    while step < schedule.steps:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step)
        loss = loss_at(torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if average is not None:
            average.update(network, step)
        step += 1
        value = float(loss.detach())
        smooth = value if smooth == 0.0 else smooth * 0.98 + value * 0.02
        bar.show(step, note(smooth))
        if time.monotonic() - saved > SAVE_EVERY_SECONDS or step == schedule.steps:
            _save(state_file, network, optimiser, average, step)
            saved = time.monotonic()
    network.eval()


def _save(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    step: int,
) -> None:
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.weights if average is not None else {},
        "step": step,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
