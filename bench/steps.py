"""Steps per second at batch 1: ours against the textbook's, and against our loop alone.

    python -m bench.steps [--base FOLDER] [--threads 2] [--pairs 9] [--steps 20]

All arms run in one process and take turns, so that whatever else the machine does meets them alike.
Prints one JSON object: per arm the median speed, per ratio the median and an interval (order
statistics, about 95 %).
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.textbook import textbook
from lora_daemon.engine import bases
from lora_daemon.engine.adapters import Adapter
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

    def __init__(self, session: Session, length: int, turn: Callable[[float], None]) -> None:
        self.total = session.total
        self.record, self.saw = session.record, session.saw
        self._session, self._length, self._turn = session, length, turn

    def steps(self) -> Iterator[int]:
        began = 0.0
        for step in self._session.steps():
            if step >= WARM_UP and not (step - WARM_UP) % self._length:
                self._turn(time.perf_counter() - began if began else 0.0)
                began = time.perf_counter()
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


def freeze_of(base_path: Path, work: Path) -> Freeze:
    """A run of twelve drawn pictures."""
    return Freeze(
        run="bench", name="bench", base="bench", base_path=str(base_path), dataset="bench",
        pictures=pictures(work / "pictures", count=12, side=160), skipped=[], queued_at=0.0,
    )  # fmt: skip


def prepared(freeze: Freeze, directory: Path) -> tuple[Any, ...]:
    """What ``train`` takes before its session, and what the file of the run is made of."""
    recipe = convert({"save": {"resume_seconds": 30.0}, "dataset": {"name": "bench"}})
    base = bases.load(Path(freeze.base_path), torch.device("cpu"))
    directory.mkdir()
    cache = LatentsCache(directory.parent / "cache", base, base.resolution)
    _, moments = choose(freeze, cache, directory, lambda done, total: None)
    captions = [picture.caption for picture in freeze.pictures]
    feed = Feed(recipe, base, moments, captions)
    adapter = Adapter(base, recipe.network, recipe.training.seed)
    optimizer = optimizer_for(adapter, recipe.optimizer)
    made = Made("bench", recipe, freeze, base, captions, base.resolution, 0)
    return recipe, base, adapter, optimizer, feed, made


def measure(base_path: Path, work: Path, pairs: int, length: int) -> dict[str, list[float]]:
    """Seconds of each arm's turns, ``length`` steps each."""
    freeze = freeze_of(base_path, work)
    taken: dict[str, list[float]] = {"ours": [], "textbook": [], "alone": []}

    reference = textbook(
        base_path, [(Path(one.path), one.caption) for one in freeze.pictures],
        resolution=bases.load(base_path, torch.device("cpu")).resolution, rank=8, seed=42,
    )  # fmt: skip
    *bare, _ = prepared(freeze, work / "alone")
    train(*bare, Alone(WARM_UP))  # type: ignore[arg-type]
    for _ in range(WARM_UP):
        next(reference)

    def turn(seconds: float) -> None:
        if seconds:
            taken["ours"].append(seconds)
        if len(taken["textbook"]) < pairs:
            taken["textbook"].append(_timed(lambda: [next(reference) for _ in range(length)]))
            taken["alone"].append(_timed(lambda: train(*bare, Alone(length))))  # type: ignore[arg-type]

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


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        base = chosen.base or tiny_base.build(work / "base", "starter")
        taken = measure(base, work, chosen.pairs, chosen.steps)
    speeds = {
        arm: round(chosen.steps / statistics.median(seconds), 2) for arm, seconds in taken.items()
    }
    against = {
        arm: summary([b / a for a, b in zip(taken["ours"], taken[arm], strict=True)])
        for arm in ("textbook", "alone")
    }
    print(json.dumps({"steps_per_second": speeds, "ours_against": against}, indent=2))


if __name__ == "__main__":
    main()
