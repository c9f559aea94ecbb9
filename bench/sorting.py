"""Orders of a large dataset and the strip of its states: milliseconds in the daemon.

    python -m bench.sorting [--pictures 100000] [--rounds 5]

Target at 100 000 pictures: 150 ms, as for a filter. Each round makes a new list.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from bench.filters import NOBODY, filled, run
from shared import wire


async def measure(home: Path, pictures: int, rounds: int) -> None:
    store, views = await filled(home, pictures)
    for by in wire.SORTS:
        first, at, strip = list[float](), list[float](), list[float]()
        for number in range(rounds):
            sort = wire.Sort(by=by, descending=bool(number % 2))
            began = time.perf_counter()
            answer = await views.list_items(NOBODY, wire.ListItems(dataset="d1", sort=sort))
            first.append(time.perf_counter() - began)
            ask = wire.ListItems(
                dataset="d1", sort=sort, view=answer.view, at=f"i{pictures - 1}", offset=500
            )
            began = time.perf_counter()
            await views.list_items(NOBODY, ask)
            at.append(time.perf_counter() - began)
            count = wire.CountStates(dataset="d1", sort=sort, view=answer.view, parts=120)
            began = time.perf_counter()
            await views.count_states(NOBODY, count)
            strip.append(time.perf_counter() - began)
        print(
            json.dumps(
                {
                    "sort": by,
                    "median_ms": round(sorted(first)[rounds // 2] * 1000),
                    "max_ms": round(max(first) * 1000),
                    "page_at_max_ms": round(max(at) * 1000),
                    "strip_median_ms": round(sorted(strip)[rounds // 2] * 1000),
                }
            ),
            flush=True,
        )
    store.close()


if __name__ == "__main__":
    run(__doc__ or "", measure)
