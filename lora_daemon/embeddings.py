"""Textual inversions: the files in the workspace's ``embeddings`` folder, and which a prompt names.

They are told by their headers and never entered anywhere: a file that is put there is there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from lora_daemon.service import Context, Daemon
from shared import embeddings, emphasis, wire
from shared.errors import LoraError
from shared.filenames import to_text
from shared.safetensors_file import read_header


class Embeddings:
    """Answers ListEmbeddings."""

    def __init__(self, daemon: Daemon) -> None:
        self._folder = daemon.workspace.embeddings

    async def list_them(
        self, context: Context, request: wire.ListEmbeddings
    ) -> wire.EmbeddingsFound:
        found = await asyncio.to_thread(_looked_at, self._folder)
        return wire.EmbeddingsFound(folder=to_text(self._folder), embeddings=found)


def named(folder: Path, *prompts: str) -> list[tuple[str, str]]:
    """Names and files of those that prompts name. Raises LoraError(INVALID_FILE) where one of them
    cannot be used."""
    files = {path.stem: path for path in reversed(_files(folder))}
    if not files:
        return []
    pattern = emphasis.naming(files)
    said = {match[0].lower() for text in prompts for match in pattern.finditer(text)}
    used = {name: path for name, path in files.items() if name.lower() in said}
    for path in used.values():
        embeddings.form(path, read_header(path))
    return [(to_text(name), to_text(path)) for name, path in used.items()]


def _files(folder: Path) -> list[Path]:
    """Every embedding file of the folder and those in it, those that can be read first."""
    found = [path for path in folder.glob("**/*") if path.suffix in embeddings.SUFFIXES]
    return sorted(found, key=lambda path: (embeddings.SUFFIXES.index(path.suffix), path))


def _looked_at(folder: Path) -> list[wire.Embedding]:
    return [_seen(path) for path in _files(folder)]


def _seen(path: Path) -> wire.Embedding:
    name, place = to_text(path.stem), to_text(path)
    try:
        form = embeddings.form(path, read_header(path))
    except LoraError as error:
        return wire.Embedding(name=name, path=place, problem=error.message)
    return wire.Embedding(name=name, path=place, vectors=form.vectors, widths=form.widths)
