"""The command line: ``python -m bench.gpu VERB …``."""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
from pathlib import Path

from bench.gpu import job, profiles
from bench.gpu.inputs import LESSON, SHAPES
from lora_daemon.engine.device import use_threads

VERBS = {
    "prepare": (job.prepare, "make the base and the pictures"),
    "job": (job.job, "the lesson's job, from a process's start to the LoRA"),
    "memory": (job.memory, "the most memory of a few steps and samples of a small card's recipe"),
    "profile": (profiles.profiled, "the largest kernels of some steps"),
    "manners": (profiles.manners, "a step with torch's kernels, launched, recorded and compiled"),
    "floor": (profiles.floor, "the bare denoiser, forward and back to its input"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (_, says) in VERBS.items():
        verb = verbs.add_parser(name, help=says)
        verb.add_argument("--work", type=Path, required=True, help="a folder, outside the tree")
        verb.add_argument("--shape", choices=SHAPES, default="sd15")
        verb.add_argument("--device", default="", help="where the base is made; default: a GPU")
        verb.add_argument("--pictures", type=int, default=LESSON)
        verb.add_argument("--batch", type=int, default=1)
        verb.add_argument("--steps", type=int, default=0, help="fewer than the whole job's")
        verb.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
        verb.add_argument("--cache", type=Path, help="of compiled kernels; an empty one is cold")
        verb.add_argument("--limit", type=float, default=0.0, help="GiB, as of a smaller card")
        verb.add_argument("--manner", choices=profiles.MANNERS, action="append")
        verb.add_argument("--set", action="append", default=[], help="key=value of the recipe")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    use_threads()
    print(
        json.dumps(
            {"verb": options.verb, **VERBS[options.verb][0](options)}, indent=1, ensure_ascii=False
        )
    )


if __name__ == "__main__":
    main()
