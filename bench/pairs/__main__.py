"""The command line of the campaign: `run` works, `table` says what there is."""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from pathlib import Path

from bench.pairs.plan import LORAS, ROUND, Part


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pairs")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, says in (("run", "go on where it was"), ("table", "what there is so far")):
        verb = verbs.add_parser(name, help=says)
        verb.add_argument("--work", type=Path, required=True, help="a folder, outside the tree")
        verb.add_argument("--part", choices=[*LORAS], action="append", dest="parts")
        if name == "run":
            verb.add_argument(
                "--pictures", type=int, default=200, help="of each arm; 0: train and ask"
            )
            verb.add_argument(
                "--round", type=int, default=ROUND, help="of each before any has more"
            )
            verb.add_argument("--losses", action="store_true", help="nothing asked, no remedies")
            verb.add_argument(
                "--share", type=share, default=(0, 1), metavar="K/N",
                help="this process's part of the work, the Kth of N that are at it at once",
            )  # fmt: skip
        else:
            verb.add_argument("--json", action="store_true")
    options = parser.parse_args()
    parts: list[Part] = options.parts or list(LORAS)
    if options.verb == "run":
        options.work.mkdir(parents=True, exist_ok=True)
        mine, of = options.share
        with (options.work / f"lock-{mine}-{of}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"A campaign is at work in {options.work} already.") from None
            work(options, parts)
        return
    from bench.pairs import table

    found = table.found(options.work, parts)
    print(json.dumps(found) if options.json else table.lines(found))


def share(text: str) -> tuple[int, int]:
    """``K/N`` as (K - 1, N)."""
    mine, of = map(int, text.split("/"))
    if not 0 < mine <= of:
        raise ValueError
    return mine - 1, of


def work(options: argparse.Namespace, parts: list[Part]) -> None:
    """Rounds: every arm has as many pictures before any has more."""
    from bench.pairs.campaign import Campaign

    campaign = Campaign(options.work, say, options.share)
    for number in range(options.round, max(1, options.pictures) + options.round, options.round):
        for part in parts:
            campaign.go(part, min(number, options.pictures), ask=not options.losses)


def say(text: str) -> None:
    """To whoever watches."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
