"""Whether few large batches teach as much as many small ones: the starter, batch 1 against batch 8.

    python -m bench.batches --out FOLDER [--seen 1920]

All runs are of the same pictures, and see as many. The learning rate of batch 1 is the starter's;
those of batch 8 are that, and some times it. Each run's error on held-out pictures is that of its
best checkpoint (bench.which_checkpoint measures it: fixed pictures, timesteps and noise), as a
share of the base's. Kept in FOLDER as it is made. One JSON object.
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import msgspec

from bench import which_checkpoint as which
from lora_daemon.engine import device
from lora_daemon.engine.bases import Base, best_device, load
from lora_daemon.engine.measuring import Measurer
from lora_daemon.measurements import Record, plan_of
from lora_daemon.starter import base_dir

RATE, PICTURES, RANK, SEED = 1e-3, 120, 16, 81
LARGER = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0)  # times the rate of batch 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seen", type=int, default=1920, help="pictures, a multiple of 64")
    options = parser.parse_args()
    device.use_threads()
    device.settle()
    base = load(base_dir(), best_device(), "fp32")
    measurer = Measurer(base)
    found: dict[str, Any] = {"seen": options.seen}
    for batch, times in ((1, 1.0), *((8, times) for times in LARGER)):
        name = f"batch{batch}-{times:g}"
        found[name] = arm(base, measurer, options.out / name, batch, times, options.seen)
    print(json.dumps(found))


def arm(
    base: Base, measurer: Measurer, folder: Path, batch: int, times: float, seen: int
) -> dict[str, Any]:
    """A run on the pictures that all arms have, whatever is missing of it, and what it came to."""
    rate, steps = RATE * times, seen // batch
    row = (PICTURES, RANK, rate, steps, "constant")
    freeze, recipe = which.prepared(folder, folder.name, row, SEED, batch)
    which.trained(base, folder, folder.name)
    errors: dict[int, float] = {}
    for one in which.candidates(folder):
        path = folder / f"measured-{one.step}.json"
        if not path.exists():
            record = which.measured(base, measurer, folder, one, plan_of(recipe, freeze))
            path.write_bytes(msgspec.json.encode(record))
        rows = msgspec.json.decode(path.read_bytes(), type=Record).rows["held"]
        errors[one.step] = statistics.fmean(value for each in rows for value in each)
    best = min(errors, key=lambda step: errors[step])
    return {
        "rate": rate, "steps": steps, "best_step": best,
        "held_out": round(errors[best] / errors[0], 4),
        "held_out_at_the_end": round(errors[steps] / errors[0], 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
