"""Minutes and memory foretold, held against what happened: short recipes on the starter.

    python -m bench.estimates [--steps 60]

Target: within 15 %, where runs of the kind have told (``alike``). A daemon of its own trains one
recipe after the other, each foretold by those before it, as somebody has it who begins anew: the
first of a kind by other kinds, its second by itself, batches of 2 by those of 1 and 4. ``seconds``
and ``memory`` are told by happened; memory is the worker's resident set, looked at 20 times a
second. On a machine that others use the same run takes twice as long an hour later, so
``processor`` is the same with every run's seconds times the share of one processor that it got.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec.structs import replace

from lora_daemon.starter import dataset_dir
from lora_tui.core.train_sums import resolved, took
from shared import recipe as recipes
from shared import wire
from shared.foretelling import Spent, foretell

SAMPLES = ['sample.prompts=["a red creature"]', "sample.every_steps=20", "sample.steps=6"]
RUNS: list[tuple[str, list[str]]] = [
    ("batch 1", []),
    ("batch 4", ["training.batch_size=4"]),
    ("batch 2", ["training.batch_size=2"]),
    ("batch 1", []),
    ("2 batches of 2", ["training.batch_size=2", "training.accumulation=2"]),
    ("samples", SAMPLES),
    ("samples", SAMPLES),
    ("8 bits", ["base.quantize=int8"]),
    ("8 bits", ["base.quantize=int8"]),
    ("checkpointing", ["training.checkpointing=true"]),
    ("checkpointing", ["training.checkpointing=true"]),
]
PAGE = os.sysconf("SC_PAGESIZE")


def cli(home: str, *arguments: str) -> Any:
    """What a command says as JSON, its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "lora_tui.cli", "--home", home, "--json", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


def runs(home: str) -> list[wire.Run]:
    """All that there are."""
    return msgspec.convert(cli(home, "run", "list")["runs"], list[wire.Run])


def worked(pid: int) -> float:
    """Processor seconds of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_share(one: Spent, share: float) -> Spent:
    """What a run took, in processor seconds."""
    names = ("loading", "caching", "training", "painting")
    return replace(one, **{name: getattr(one, name) * share for name in names})


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """The most bytes that a process has meanwhile, in the list's one place."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            with suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                most[0] = max(most[0], pages * PAGE)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


class Bench:
    """A workspace with a worker, ``pid``, and what its runs were told to take, by what they did."""

    def __init__(self, home: str, steps: int) -> None:
        self.home, self.steps = home, steps
        self.told: dict[str, list[float]] = {"seconds": [], "processor": [], "memory": []}
        self._shares: dict[str, float] = {}  # by run: of one processor
        cli(home, "dataset", "import", str(dataset_dir("creatures")), "--name", "set")
        cli(home, "generate", "--base", "starter", "--steps", "1", "--prompt", "a", "--out",
            str(Path(home) / "one.png"))  # fmt: skip
        self._pid = int(cli(home, "status")["worker"]["pid"])  # that the picture has begun
        self._bases = msgspec.convert(cli(home, "model", "list")["bases"], list[wire.BaseModel])

    def one(self, name: str, sets: list[str]) -> None:
        """Foretell a run, let it happen, and print both."""
        all_sets = ["dataset.name=set", f"training.max_steps={self.steps}", *sets]
        recipe = resolved(recipes.parse("", all_sets), self._bases)
        before = runs(self.home)
        path = Path(self.home) / "plain.toml"
        path.write_text("")
        options = [word for one in all_sets for word in ("--set", one)]
        used = worked(self._pid)
        with watched(self._pid) as most:
            its_id = cli(self.home, "train", str(path), *options)["run"]
        used = worked(self._pid) - used
        run = next(one for one in runs(self.home) if one.id == its_id)
        assert run.started is not None and run.finished is not None
        seconds = run.finished - run.started
        self._shares[run.id] = used / seconds
        line: dict[str, Any] = {
            "run": name, "seconds": round(seconds, 1), "processor": round(used, 1),
            "memory_mb": most[0] // 10**6,
        }  # fmt: skip
        in_processor = [
            replace(one, spent=at_share(one.spent, self._shares[one.id]))
            for one in before
            if one.spent is not None
        ]
        each = math.ceil(run.steps / run.epochs)
        found, less = (
            foretell(recipe, run.pictures, run.steps, each, took(past))
            for past in (before, in_processor)
        )
        if found.seconds is not None and less.seconds is not None:
            ratios = {"seconds": found.seconds / seconds, "processor": less.seconds / used}
            if found.memory is not None:
                ratios["memory"] = found.memory / most[0]
            line |= {"alike": found.alike}
            line |= {f"{what} told/happened": round(one, 3) for what, one in ratios.items()}
            for what, ratio in ratios.items() if found.alike else ():
                self.told[what].append(ratio)
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as home:
        try:
            bench = Bench(home, steps)
            for name, sets in RUNS:
                bench.one(name, sets)
        finally:
            cli(home, "daemon", "stop")
    for what, ratios in bench.told.items():
        within = sum(abs(one - 1) <= 0.15 for one in ratios)
        print(json.dumps({
            "what": what, "told": len(ratios), "within 15 %": within,
            "median": round(median(ratios), 3), "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
