"""Two SDXL LoRAs of rank 32 on 722 modules compared: seconds, and the memory of the process.

    python -m bench.conflict [--rank 32] [--rounds 7]

The files are fp16, as kohya saves them, and in the page cache. Each round is a process of its own,
as the daemon runs it; ``compare`` is from the open files to the answer, ``cpu`` the processor time
of that, all threads together (of use on a busy machine), ``process`` includes the interpreter and
torch. The peak is the process's own (VmHWM: what getrusage tells of a child begins with what its
parent had), ``before`` what it has when torch is loaded. One JSON object.
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import summary

_CHILD = """
import gc, sys, time
from pathlib import Path
import msgspec, torch
from lora_daemon.engine import conflict
from lora_daemon.engine.device import use_threads
from shared.conflicts import ConflictOrder

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

order = msgspec.json.decode(sys.stdin.buffer.read(), type=ConflictOrder)
threads = use_threads()
gc.freeze()
torch.set_num_threads(1)
before, began, used = peak(), time.perf_counter(), time.process_time()
told = conflict.compare(order, threads)
took, used = time.perf_counter() - began, time.process_time() - used
print(took, used, before, peak(), told.whole.met, threads)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(figures(options.rank, options.rounds)))


def figures(rank: int, rounds: int) -> dict[str, Any]:
    """s of a comparison and of its whole process, MiB at most."""
    import msgspec

    from shared.conflicts import Compared, ConflictOrder
    from shared.pictures import LoraUse

    with tempfile.TemporaryDirectory() as folder:
        files = [_lora(Path(folder) / f"{n}.safetensors", rank, n) for n in range(2)]
        order = ConflictOrder(
            loras=[Compared(path=str(file), use=LoraUse(lora=str(file))) for file in files]
        )
        compare, cpu, process, peaks = [], [], [], []
        for number in range(rounds + 1):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _CHILD], input=msgspec.json.encode(order),
                stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
            took, used, before, peak, met, threads = done.stdout.split()
            if number:  # the first fills the page cache
                compare.append(float(took))
                cpu.append(float(used))
                process.append(time.perf_counter() - began)
                peaks.append(float(peak))
        size = sum(file.stat().st_size for file in files)
    return {
        "modules": int(met), "rank": rank, "threads": int(threads), "files_mb": size // 2**20,
        "compare_s": summary(compare), "cpu_s": summary(cpu), "process_s": summary(process),
        "peak_mib": round(max(peaks)), "before_mib": round(float(before)),
    }  # fmt: skip


def _lora(path: Path, rank: int, seed: int) -> Path:
    import torch
    from safetensors.torch import save_file

    from lora_daemon.families import SDXL
    from lora_daemon.names import unet_names
    from tests.engine import full_size

    unet = full_size.network(SDXL, "unet")
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, name in unet_names(unet.config, original=True).items():
        if "conv" in module or "time_emb" in module:
            continue
        high, *wide = unet.get_submodule(module).weight.shape
        down = torch.randn(rank, *wide, generator=draw) * 0.01
        up = torch.randn(high, rank, *(1 for _ in wide[1:]), generator=draw) * 0.01
        tensors[f"{name}.lora_down.weight"] = down.half()
        tensors[f"{name}.lora_up.weight"] = up.half()
        tensors[f"{name}.alpha"] = torch.tensor(float(rank)).half()
    save_file(tensors, path)
    return path


if __name__ == "__main__":
    main()
