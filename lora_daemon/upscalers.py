"""Networks that enlarge pictures: the files in the workspace's ``upscalers`` folder, by name.

They are never entered anywhere: a file that is put there is there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from lora_daemon.service import Context, Daemon
from shared import wire
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.pictures import UPSCALERS, PictureSpec
from shared.safetensors_file import read_header

SUFFIX = ".safetensors"


class Upscalers:
    """Answers ListUpscalers."""

    def __init__(self, daemon: Daemon) -> None:
        self._folder = daemon.workspace.upscalers

    async def list_them(self, context: Context, request: wire.ListUpscalers) -> wire.UpscalersFound:
        found = await asyncio.to_thread(lambda: [_seen(path) for path in _files(self._folder)])
        return wire.UpscalersFound(folder=to_text(self._folder), upscalers=found)


def found(folder: Path, spec: PictureSpec) -> PictureSpec:
    """The spec with the file of its upscaler in place of a name, if that is a network's.

    Raises LoraError(NOT_FOUND) saying what there is.
    """
    if spec.second is None or spec.second.upscaler in UPSCALERS:
        return spec
    name = spec.second.upscaler
    known = {path.stem.lower(): path for path in reversed(_files(folder))}
    path = known.get(name.removesuffix(SUFFIX).lower(), Path(typed(name)))
    if not path.is_file():
        there = ", ".join([*UPSCALERS, *names(folder)])
        raise LoraError(
            Code.NOT_FOUND,
            f"There is no upscaler {name}. There are {there}; a network's .safetensors file can be "
            f"put into {to_text(folder)}, or given by its path.",
        )
    return replace(spec, second=replace(spec.second, upscaler=to_text(path.absolute())))


def names(folder: Path) -> list[str]:
    """Of the networks in the folder."""
    return [to_text(path.stem) for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("**/*") if path.suffix == SUFFIX)


def _seen(path: Path) -> wire.Upscaler:
    problem = ""
    try:
        read_header(path)
    except LoraError as error:
        problem = error.message
    return wire.Upscaler(name=to_text(path.stem), path=to_text(path), problem=problem)
