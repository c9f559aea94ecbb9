"""Minutes and memory foretold, held against what happened: short recipes on the starter.

    python -m bench.estimates [--steps 60]

Target: within 15 %, where runs of the kind have told (``alike``). A daemon of its own trains one
recipe after the other, each foretold by those before it, as somebody has it who begins anew: the
first of a kind by other kinds, its second by itself, batches of 2 by those of 1 and 4. ``seconds``
and ``memory`` are told by happened; memory is the worker's resident set, looked at 20 times a
second. A busy machine takes longer than it told: look at the spread.
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

from lora_daemon.starter import dataset_dir
from lora_tui.core.train_sums import resolved, took
from shared import recipe as recipes
from shared import wire
from shared.foretelling import foretell

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    told: dict[str, list[float]] = {"seconds": [], "memory": []}
    with tempfile.TemporaryDirectory() as home:
        cli(home, "dataset", "import", str(dataset_dir("creatures")), "--name", "set")
        cli(home, "generate", "--base", "starter", "--steps", "1", "--prompt", "a", "--out",
            str(Path(home) / "one.png"))  # fmt: skip
        pid = int(cli(home, "status")["worker"]["pid"])  # the worker that the picture has begun
        try:
            bases = msgspec.convert(cli(home, "model", "list")["bases"], list[wire.BaseModel])
            for name, sets in RUNS:
                _one(home, pid, name, sets, steps, told, bases)
        finally:
            cli(home, "daemon", "stop")
    for what, ratios in told.items():
        within = sum(1 / 1.15 <= one <= 1.15 for one in ratios)
        print(json.dumps({
            "what": what, "told": len(ratios), "within 15 %": within,
            "median": round(median(ratios), 3), "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }))  # fmt: skip


def _one(
    home: str, pid: int, name: str, sets: list[str], steps: int, told: dict[str, list[float]],
    bases: list[wire.BaseModel],
) -> None:  # fmt: skip
    """Foretell a run, let it happen, and print both."""
    all_sets = ["dataset.name=set", f"training.max_steps={steps}", *sets]
    recipe = resolved(recipes.parse("", all_sets), bases)
    before = took(runs(home))
    options = [word for one in all_sets for word in ("--set", one)]
    path = Path(home) / "plain.toml"
    path.write_text("")
    with watched(pid) as most:
        its_id = cli(home, "train", str(path), *options)["run"]
    run = next(one for one in runs(home) if one.id == its_id)
    each = math.ceil(run.steps / run.epochs)
    found = foretell(recipe, run.pictures, run.steps, each, before) if before else None
    assert run.started is not None and run.finished is not None
    happened = run.finished - run.started
    line: dict[str, Any] = {
        "run": name, "seconds": round(happened, 1), "memory_mb": most[0] // 10**6,
    }  # fmt: skip
    if found is not None and found.seconds is not None:
        line |= {"alike": found.alike, "told/happened": round(found.seconds / happened, 3)}
        if found.alike:
            told["seconds"].append(found.seconds / happened)
        if found.memory is not None:
            line["memory told/happened"] = round(found.memory / most[0], 3)
            told["memory"].append(found.memory / most[0])
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
