"""Whether torch's build can use the GPU that is there, and the command that mends it if not."""

from __future__ import annotations

from typing import NamedTuple

OLDEST = "2.11"  # torch
OLDER_CUDA = "https://download.pytorch.org/whl/cu126"
# The first driver branch that runs builds for a CUDA release, as NVIDIA lists them; within a major
# release a build runs on every driver of it ("minor version compatibility").
_BRANCHES = ((580, "13.0"), (525, "12.9"), (450, "11.8"))


class Misfit(NamedTuple):
    """Why a GPU cannot be used, and what to do: each a sentence or a command."""

    why: str
    mend: str


def cuda_of(driver: str) -> str:
    """The newest CUDA that an NVIDIA driver ("550.54.14") runs builds for; "" if unknown."""
    branch = number(driver)[:1]
    return next((cuda for first, cuda in _BRANCHES if branch >= (first,)), "")


def index_for(driver_cuda: str) -> str | None:
    """Where pip finds torch's build for a driver: "" is its ordinary place; None: no build that is
    new enough runs on it."""
    major = number(driver_cuda)[:1]
    if not major or major >= (13,):
        return ""
    return OLDER_CUDA if major == (12,) else None


def misfit(driver: str, driver_cuda: str, built_for: str, error: str) -> Misfit | None:
    """Judge a box with an NVIDIA driver. ``built_for``: the CUDA of torch's build, "" without one;
    ``error``: why torch can use no GPU, "" where that is not known. None: nothing is wrong."""
    able = driver_cuda or cuda_of(driver)
    index = index_for(able)
    newer = f"Update the driver (now {driver}) to 525 or newer."
    install = f'pip install --force-reinstall "torch>={OLDEST}"'
    install += f" --index-url {index}" if index else ""
    if not built_for:
        return Misfit("this torch is built without CUDA", newer if index is None else install)
    if able and number(able)[:1] < number(built_for)[:1]:
        why = f"driver {driver} runs CUDA up to {able}, torch is for {built_for}"
        return Misfit(why, newer if index is None else f"Update the driver, or: {install}")
    if error:
        mend = "In a container, check that it was given the GPU (docker run --gpus all)."
        return Misfit(error, mend)
    return None


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
