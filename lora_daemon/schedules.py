"""Learning rates: each a function of the step, so there is nothing to resume."""

from __future__ import annotations

import math

from shared.recipe import Schedule


def learning_rate(schedule: Schedule, rate: float, step: int, total: int) -> float:
    """The rate of a step, counted from 0, that ``rate`` becomes after warm-up and decay."""
    warm = schedule.warmup_steps
    if step < warm:
        return rate * (step + 1) / warm
    passed = (step - warm) / max(1, total - warm)
    return rate * (schedule.floor + (1 - schedule.floor) * _factor(schedule, passed))


def _factor(schedule: Schedule, passed: float) -> float:
    """From 1 towards 0. ``passed``: the share of the steps after the warm-up that is done."""
    match schedule.kind:
        case "constant":
            return 1.0
        case "linear":
            return 1 - passed
        case "cosine":
            return (1 + math.cos(math.pi * passed)) / 2
        case "cosine_with_restarts":  # https://arxiv.org/abs/1608.03983
            return (1 + math.cos(math.pi * (schedule.cycles * passed % 1))) / 2
        case "polynomial":
            return float((1 - passed) ** schedule.power)
        case "rex":  # https://arxiv.org/abs/2107.04197
            return (1 - passed) / (1 - passed / 2)
