"""Steps per second at batch 1: ours against the textbook's, against our loop alone, and against the
floor: the bare frozen denoiser, forward and back to its input.

    python -m bench.steps [--base FOLDER] [--threads 2] [--pairs 9] [--steps 20] [--compile]

All arms run in one process and take turns, so that whatever else the machine does meets them alike.
Prints one JSON object: per arm the median speed and milliseconds of processor time a step, per
ratio of that arm's time to ours the median and an interval (order statistics, about 95 %). With
``--compile`` our loop alone has a second turn with ``training.compile``, with ratios of its own and
the seconds that compiling took (with kernels that torch has kept from before, if it has any).
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.textbook import textbook
from lora_daemon.engine import bases, compiled
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache
from lora_daemon.engine.feed import Feed, choose
from lora_daemon.engine.lora_metadata import Made
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.resume import Fingerprint
from lora_daemon.engine.session import Session
from lora_daemon.engine.steering import Steering
from lora_daemon.engine.train import train
from lora_daemon.pipe import Freeze, Report, frame
from shared.recipe import convert
from tests.engine import tiny_base
from tests.engine.worker_process import pictures

WARM_UP = 5


class Taken(NamedTuple):
    """Seconds by the clock, and of all processors."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Taken:
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def since(cls, began: Taken) -> Taken:
        return cls(time.perf_counter() - began.clock, time.process_time() - began.processor)


Turn = Callable[[Taken | None], None]  # told what our turn before it took


class Alone:
    """The loop's surroundings removed: some steps, and nothing between them."""

    total = 1_000_000

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def steps(self) -> Iterator[int]:
        yield from range(self._steps)

    def saw(self, pictures: Sequence[int], timesteps: Tensor, losses: Tensor) -> None:
        del pictures, timesteps, losses

    def record(self, loss: Tensor, rate: float, norm: Tensor) -> None:
        del loss, rate, norm


class Paced:
    """A session that lets the other arms have their turn each ``length`` steps."""

    def __init__(self, session: Session, length: int, turn: Turn) -> None:
        self.total = session.total
        self.record, self.saw = session.record, session.saw
        self._session, self._length, self._turn = session, length, turn

    def steps(self) -> Iterator[int]:
        began = None
        for step in self._session.steps():
            if step >= WARM_UP and not (step - WARM_UP) % self._length:
                self._turn(began and Taken.since(began))
                began = Taken.now()
            yield step


class Quiet:
    """No commands."""

    def take(self, wait: float | None) -> None:
        del wait

    def put_off(self, command: object) -> None:
        del command

    def leaving(self, run: str) -> bool:
        del run
        return False


class Floor:
    """What no trainer of this base can leave out: its forward, and its backward to its input."""

    def __init__(self, base: Base, feed: Feed) -> None:
        self._base, self._feed = base, feed

    def steps(self, count: int) -> None:
        for step in range(count):
            for batch in self._feed.batches(step):
                noisy = batch.latents.requires_grad_()
                predicted = self._base.denoise(noisy, batch.timesteps, batch.text)
                F.mse_loss(predicted, batch.noise).backward()  # type: ignore[no-untyped-call]


def freeze_of(base_path: Path, work: Path) -> Freeze:
    """A run of twelve drawn pictures."""
    return Freeze(
        run="bench", name="bench", base="bench", base_path=str(base_path), dataset="bench",
        pictures=pictures(work / "pictures", count=12, side=160), skipped=[], queued_at=0.0,
    )  # fmt: skip


def prepared(freeze: Freeze, directory: Path, *, compiling: bool = False) -> tuple[Any, ...]:
    """What ``train`` takes before its session, and what the file of the run is made of."""
    recipe = convert(
        {"save": {"resume_seconds": 30.0}, "dataset": {"name": "bench"},
         "training": {"compile": compiling}}
    )  # fmt: skip
    base = bases.load(Path(freeze.base_path), torch.device("cpu"))
    directory.mkdir()
    cache = LatentsCache(directory.parent / "cache", base, base.resolution)
    _, moments = choose(recipe.dataset, freeze, cache, directory, lambda *_: None)
    captions = [picture.caption for picture in freeze.pictures]
    feed = Feed(recipe, base, moments, captions)
    adapter = Adapter(base, recipe.network, recipe.training.seed)
    optimizer = optimizer_for(adapter, recipe.optimizer)
    made = Made("bench", recipe, freeze, base, captions, base.resolution, 0)
    return recipe, base, adapter, optimizer, feed, made


def measure(
    base_path: Path, work: Path, pairs: int, length: int, compiling: Callable[[float], None] | None
) -> dict[str, list[Taken]]:
    """What each arm's turns took, ``length`` steps each. ``compiling``: hears the seconds it took;
    without it there is no such arm."""
    freeze = freeze_of(base_path, work)
    taken: dict[str, list[Taken]] = {"ours": []}

    reference = textbook(
        base_path, [(Path(one.path), one.caption) for one in freeze.pictures],
        resolution=bases.load(base_path, torch.device("cpu")).resolution, rank=8, seed=42,
    )  # fmt: skip
    *bare, _ = prepared(freeze, work / "alone")
    floor = Floor(bases.load(base_path, torch.device("cpu")), bare[4])
    arms: dict[str, Callable[[int], object]] = {
        "textbook": lambda steps: [next(reference) for _ in range(steps)],
        "alone": lambda steps: train(*bare, Alone(steps)),  # type: ignore[arg-type]
        "floor": floor.steps,
    }
    if compiling is not None:
        began = time.perf_counter()
        *second, _ = prepared(freeze, work / "compiled", compiling=True)
        parts = second[0], second[1], second[2], second[4]
        learner = compiled.learner(*parts, lambda *_: None, sys.exit)  # or why there is none
        compiling(time.perf_counter() - began)
        arms["compiled"] = lambda steps: train(*second, Alone(steps), None, learner)  # type: ignore[arg-type]
    for name, arm in arms.items():
        taken[name] = []
        arm(WARM_UP)

    def turn(own: Taken | None) -> None:
        if own is not None:
            taken["ours"].append(own)
        for name, arm in arms.items():
            if len(taken[name]) < pairs:
                taken[name].append(_timed(lambda arm=arm: arm(length)))  # type: ignore[misc]

    *full, made = prepared(freeze, work / "ours")
    sink: list[int] = []

    def tell(report: Report) -> None:
        sink.append(len(frame(report)))

    steering = Steering("bench", Quiet(), tell)
    total = WARM_UP + pairs * length + 1
    session = Session(
        full[0], made, work / "ours", full[2], full[3], Fingerprint.of(full[1]), steering,
        lambda step: None, total, full[4].steps_per_epoch,
    )  # fmt: skip
    session.restore()
    train(*full, Paced(session, length, turn))  # type: ignore[arg-type]
    return taken


def _timed(work: Callable[[], object]) -> Taken:
    began = Taken.now()
    work()
    return Taken.since(began)


def against(ours: list[Taken], others: list[Taken]) -> dict[str, float]:
    """How much longer by the clock another arm's turns took than ours beside them."""
    return summary([other.clock / own.clock for own, other in zip(ours, others, strict=True)])


def summary(ratios: list[float]) -> dict[str, float]:
    """Median, and the order statistics that hold it in about 95 % of cases (7 ≤ n ≤ 15)."""
    ordered = sorted(ratios)
    cut = 0 if len(ordered) < 9 else 1 if len(ordered) < 12 else 2
    return {
        "median": round(statistics.median(ordered), 3),
        "low": round(ordered[cut], 3),
        "high": round(ordered[-1 - cut], 3),
        "pairs": len(ordered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", type=Path, help="a base; default: random weights, starter's shape"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps of each arm's turn")
    parser.add_argument("--compile", action="store_true", help="and our loop alone, compiled")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        base = chosen.base or tiny_base.build(work / "base", "starter")
        compiling: list[float] = []
        taken = measure(
            base, work, chosen.pairs, chosen.steps, compiling.append if chosen.compile else None
        )
    steps = chosen.steps
    speeds = {
        arm: round(steps / statistics.median(one.clock for one in turns), 2)
        for arm, turns in taken.items()
    }
    processor = {
        arm: round(1000 / steps * statistics.median(one.processor for one in turns), 2)
        for arm, turns in taken.items()
    }
    answer: dict[str, Any] = {
        "steps_per_second": speeds, "processor_ms": processor,
        "ours_against": {
            arm: against(taken["ours"], taken[arm]) for arm in ("textbook", "alone", "floor")
        },
    }  # fmt: skip
    if compiling:
        answer["compiled_against"] = {
            arm: against(taken["compiled"], taken[arm]) for arm in ("textbook", "ours", "floor")
        }
        answer["compiling_s"] = round(compiling[0], 1)
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
