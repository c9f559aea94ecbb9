"""The command line of the campaign: `run` works, `table` says what there is."""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from pathlib import Path

from bench.pairs.plan import ENOUGH, LORAS, ROUND, Part


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pairs")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, says in (("run", "go on where it was"), ("table", "what there is so far")):
        verb = verbs.add_parser(name, help=says)
        verb.add_argument("--work", type=Path, required=True, help="a folder, outside the tree")
        verb.add_argument("--part", choices=[*LORAS], action="append", dest="parts")
        if name == "run":
            verb.add_argument(
                "--pictures", type=int, default=200, help=f"of each arm, in rounds of {ROUND}"
            )
        else:
            verb.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts: list[Part] = options.parts or list(LORAS)
    if options.verb == "run":
        options.work.mkdir(parents=True, exist_ok=True)
        with (options.work / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"A campaign is at work in {options.work} already.") from None
            work(options.work, parts, options.pictures)
        return
    from bench.pairs import table

    found = table.found(options.work, parts)
    print(json.dumps(found) if options.json else table.lines(found))


def work(folder: Path, parts: list[Part], pictures: int) -> None:
    """Rounds: every arm has as many pictures before any has more."""
    from bench.pairs.campaign import Campaign

    campaign = Campaign(folder, say)
    for number in range(ROUND, pictures + ROUND, ROUND):
        for part in parts:
            most = min(pictures, ENOUGH) if part == "development" else pictures
            campaign.go(part, min(number, most))


def say(text: str) -> None:
    """To whoever watches."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
