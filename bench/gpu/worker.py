"""The product's worker, if wanted on a device of less memory: torch then refuses what is beyond."""

from __future__ import annotations

import sys


def main() -> None:
    at = sys.argv.index("--limit")
    limit = float(sys.argv[at + 1])
    from lora_daemon.engine import worker

    if limit:
        import torch

        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit * 2**30 / whole))
    worker.main(sys.argv[1:at] + sys.argv[at + 2 :])


if __name__ == "__main__":
    main()
