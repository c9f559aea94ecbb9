"""A lesson in merger coefficients (``engine.columns``), a little at a time and from files.

Between two calls a training run has its turn, and a worker that dies loses a few steps. First each
LoRA's way to each picture is written down, then what is learnt from them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lora_daemon.engine import columns, effects
from lora_daemon.engine.columns import Learner, Moment, Moments
from lora_daemon.engine.effects import Check
from lora_daemon.engine.generate import conditioning
from lora_daemon.engine.lora_read import raw
from lora_daemon.engine.mix import Mix, Strength
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec
from shared.safetensors_file import read_header, write

STATE = "state.safetensors"  # in a lesson's folder
SLICE = 2.0  # seconds of learning until others have their turn


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how. ``pictures``: (LoRA, the picture on whose way it is asked); the last
    of each LoRA is kept back, to measure by. ``folder``: where the work lies until it is done;
    ``out``: the result; ``about``: what its metadata says besides what was measured."""

    strengths: Sequence[Strength]
    pictures: Sequence[tuple[int, PictureSpec]]
    folder: Path
    out: Path
    steps: int
    rate: float
    penalty: float
    seed: int
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return len(self.pictures) + self.steps

    def alone(self, lora: int) -> list[Strength]:
        """One LoRA at its weight, the others off."""
        off = Strength(0.0)
        return [one if at == lora else off for at, one in enumerate(self.strengths)]

    def kept_back(self, number: int) -> bool:
        lora = self.pictures[number][0]
        return all(other != lora for other, _ in self.pictures[number + 1 :])


def go_on(mix: Mix, lesson: Lesson, check: Check) -> int:
    """Do a little more of a lesson, and return how much is done, ``lesson.total`` when the result
    is in place. Raises LoraError: BAD_REQUEST, DIVERGED, STORAGE, and what ``check`` raises."""
    for number, (lora, spec) in enumerate(lesson.pictures):
        path = lesson.folder / f"way-{number}.safetensors"
        if _read(path) is None:
            way = _walked(mix, lesson, lora, spec, check)
            write(path, {name: raw(one) for name, one in way.items()}, {})
            return number + 1
    learnt, held = moments(mix, lesson)
    learner = Learner(mix, lesson.strengths, learnt, lesson.rate, lesson.penalty, lesson.seed)
    before = _restored(lesson, learner) or learner.errors(held, check)
    until = time.monotonic() + SLICE
    while learner.done < lesson.steps:
        learner.step(check)
        if time.monotonic() >= until:
            break
    _keep(lesson, learner, before)
    if learner.done == lesson.steps:
        _finish(lesson, learner, before, learner.errors(held, check))
    return len(lesson.pictures) + learner.done


@torch.no_grad()
def _walked(
    mix: Mix, lesson: Lesson, lora: int, spec: PictureSpec, check: Check
) -> dict[str, Tensor]:  # fmt: skip
    """One LoRA's way to a picture: what it is given at each step, what it predicts for the prompt,
    how far that moves the picture, and Σ‖ε̂(LoRA) − ε̂(base)‖²."""
    base = mix.base
    plain = conditioning(base, [spec], guided=False)
    found: dict[str, list[Tensor]] = {"seen": [], "timestep": [], "wanted": [], "pace": [],
                                      "energy": []}  # fmt: skip
    with mix.on():
        mix.set(lesson.alone(lora))
        text = conditioning(base, [spec], guided=spec.cfg > 1)
        for number, (seen, timestep) in enumerate(effects.along(base, spec, text, check)):
            mix.set([Strength(0.0)] * mix.count)
            without = base.denoise(seen, timestep, plain)
            mix.set(lesson.alone(lora))
            wanted = base.denoise(seen, timestep, text[-1:])
            found["seen"].append(seen)
            found["timestep"].append(timestep.reshape(1).float().cpu())
            found["wanted"].append(wanted)
            found["pace"].append(torch.tensor([effects.pace(base, spec, number)]))
            found["energy"].append((wanted - without).square().sum().reshape(1))
    return {name: torch.cat(every) for name, every in found.items()}


def moments(mix: Mix, lesson: Lesson) -> tuple[Moments, Moments]:
    """Those to learn from, and those of the pictures that are kept back, each by LoRA."""
    learnt: Moments = [[] for _ in range(mix.count)]
    held: Moments = [[] for _ in range(mix.count)]
    device = mix.base.device
    mix.set(lesson.strengths)
    with mix.on():
        texts = {
            spec.prompt: conditioning(mix.base, [spec], guided=False) for _, spec in lesson.pictures
        }
    for number, (lora, spec) in enumerate(lesson.pictures):
        way = load_file(lesson.folder / f"way-{number}.safetensors")
        paces = way["pace"].double().square()
        weights = paces / (paces * way["energy"].double()).mean().clamp_min(1e-30)
        into = held if lesson.kept_back(number) else learnt
        for at, weight in enumerate(weights.tolist()):
            seen, wanted, timestep = (
                way[name][at : at + 1].to(device) for name in ("seen", "wanted", "timestep")
            )
            into[lora].append(Moment(seen, timestep[0], wanted, texts[spec.prompt], weight))
    return learnt, held


def _keep(lesson: Lesson, learner: Learner, before: Sequence[float]) -> None:
    state = learner.optimizer.state[learner.vector]
    tensors = {"vector": raw(learner.vector)}
    tensors |= {name: raw(state[name]) for name in ("exp_avg", "exp_avg_sq")}
    told = {"done": str(learner.done), "before": json.dumps(before)}
    write(lesson.folder / STATE, tensors, told)


def _restored(lesson: Lesson, learner: Learner) -> list[float]:
    """Bring a learner to where the lesson was left, and return what was measured before it; nothing
    where it has not been begun."""
    kept = _read(lesson.folder / STATE)
    if kept is None or len(kept["vector"]) != len(learner.vector):
        return []
    told = read_header(lesson.folder / STATE).metadata
    learner.done = int(told["done"])
    learner.vector.data.copy_(kept["vector"])
    learner.optimizer.state[learner.vector] = {
        "step": torch.tensor(float(learner.done)),
        "exp_avg": kept["exp_avg"].to(learner.vector.device),
        "exp_avg_sq": kept["exp_avg_sq"].to(learner.vector.device),
    }
    before: list[float] = json.loads(told["before"])
    return before


def _finish(
    lesson: Lesson, learner: Learner, before: Sequence[float], after: Sequence[float]
) -> None:  # fmt: skip
    """Publish the coefficients, with what they were measured to do."""
    if not math.isfinite(sum(after)):
        raise LoraError(
            Code.DIVERGED, "The coefficients became NaN. Try a lower rate (--learning-rate)."
        )
    found = learner.columns()
    told = {
        **lesson.about,
        "before": json.dumps(before), "after": json.dumps(after),
        "overlap": json.dumps(float(columns.overlap(found, learner.modules).detach())),
    }  # fmt: skip
    write(lesson.out, {name: raw(one) for name, one in found.items()}, told)
    for path in lesson.folder.glob("*.safetensors"):
        path.unlink(missing_ok=True)
    lesson.folder.rmdir()


def _read(path: Path) -> dict[str, Tensor] | None:
    """A file of the work; None where it is not there, or torn: then it is made again."""
    try:
        found: dict[str, Tensor] = load_file(path)
        return found
    except (OSError, SafetensorError):
        return None
