"""The product's worker, on a device of less memory if wanted, with an account of what it holds.

python -m bench.gpu.worker --limit GIB --account FILE --fd N
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

import torch

from lora_daemon.engine import worker

LOOKING = 0.1  # seconds between two looks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, default=0.0, help="GiB that torch may reserve")
    parser.add_argument("--account", type=Path, required=True)
    options, others = parser.parse_known_args()
    if options.limit and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.limit * 2**30 / whole))
    threading.Thread(target=_look, args=(options.account,), daemon=True).start()
    worker.main(others)


def _look(account: Path) -> None:
    """Keep in a file, in bytes: the most that torch has reserved, and what the device has in use
    beyond that, which is the context, kernels and libraries included."""
    beyond = 0
    tick = threading.Event()
    while not tick.wait(LOOKING):
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            continue
        free, whole = torch.cuda.mem_get_info()
        beyond = whole - free - torch.cuda.memory_reserved()
        found = {
            "reserved": torch.cuda.max_memory_reserved(), "beyond": beyond,
            "allocated": torch.cuda.max_memory_allocated(),
        }  # fmt: skip
        account.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
