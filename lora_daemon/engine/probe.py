"""What this installation can do, for ``lora-tui doctor``: one JSON object on stdout.

A process of its own, because it imports torch and may meet a broken one:
``python -m lora_daemon.engine.probe WORKSPACE``.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from lora_daemon import filesystem, nvidia

PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy",
    "openai-clip",
)  # fmt: skip


class Gpu(msgspec.Struct, kw_only=True):
    """A GPU as torch sees it."""

    name: str
    memory: int  # bytes
    bf16: bool


class Facts(msgspec.Struct, kw_only=True):
    """What was found. Nothing here is judged."""

    packages: dict[str, str]  # installed version; empty if not installed
    torch_error: str = ""  # why it cannot be imported
    torchvision: str = ""  # its version, if it is there: the engine does without
    torchvision_error: str = ""  # why it cannot be imported: then much of the engine cannot either
    built_for: str = ""  # the CUDA version of torch's build; empty: a build without CUDA
    gpus: list[Gpu] = []  # that torch can use
    gpu_error: str = ""  # why it can use none
    driver: str = ""  # NVIDIA driver's version; empty: no driver
    driver_cuda: str = ""  # newest CUDA that driver runs
    cards: list[str] = []  # names, by the driver
    disk: str = ""  # file system type
    network_disk: bool = False
    ephemeral_disk: bool = False
    free: int = 0  # bytes on the workspace's disk
    starter_error: str = ""  # what is wrong with the built-in base


def probe(workspace: Path) -> Facts:
    """Look at everything; failures become facts."""
    facts = Facts(packages={name: _version(name) for name in PACKAGES})
    _disk(facts, workspace)
    _driver(facts)
    _torch(facts)
    _starter(facts)
    return facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _disk(facts: Facts, workspace: Path) -> None:
    there = next(path for path in (workspace, *workspace.parents) if path.exists())
    facts.disk = filesystem.file_system(there)
    facts.network_disk = filesystem.is_network(there)
    facts.ephemeral_disk = filesystem.is_ephemeral(there)
    facts.free = shutil.disk_usage(there).free


def _driver(facts: Facts) -> None:
    there = nvidia.driver()
    facts.driver, facts.driver_cuda, facts.cards = there.version, there.cuda, there.cards
    facts.gpu_error = there.error


def _torch(facts: Facts) -> None:
    if not facts.packages["torch"]:
        return
    try:
        import torch

        torch.ones(2).sum().item()
    except Exception as error:
        facts.torch_error = f"{type(error).__name__}: {error}"
        return
    facts.torchvision = _version("torchvision")
    if facts.torchvision:
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # made for another torch: an operator is missing, or a symbol
            facts.torchvision_error = f"{type(error).__name__}: {error}".splitlines()[0]
    facts.built_for = torch.version.cuda or ""
    if not torch.cuda.is_available():
        if facts.built_for:
            try:
                torch.cuda.init()  # type: ignore[no-untyped-call]
            except Exception as error:
                facts.gpu_error = str(error).splitlines()[0]
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = card.major >= 8
        facts.gpus.append(Gpu(name=card.name, memory=card.total_memory, bf16=bf16))
    try:
        torch.ones(2, device="cuda").sum().item()
    except Exception as error:
        facts.gpu_error = str(error).splitlines()[0]
        facts.gpus = []


def _starter(facts: Facts) -> None:
    from lora_daemon import starter

    try:
        starter.verify()
    except starter.StarterDamagedError as error:
        facts.starter_error = str(error)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(probe(Path(sys.argv[1]))))
