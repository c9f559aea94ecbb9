"""``make bench``: every benchmark in a process of its own, one after the other.

python -m bench.run [NAME …]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

# The last takes a day, and "batches" half an hour.
NOT_BENCHMARKS = {"__init__", "batches", "pictures", "run", "textbook", "which_checkpoint"}


def main() -> int:
    """Run the named benchmarks, or all; the number of those that failed."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    names = [name for name in names if name not in NOT_BENCHMARKS]
    failed = 0
    for name in sys.argv[1:] or names:
        began = time.monotonic()
        print(f"── {name}", flush=True)
        failed += (
            subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode != 0
        )
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
