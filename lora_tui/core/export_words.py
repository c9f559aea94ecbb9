"""What is said of an export."""

from __future__ import annotations

from lora_tui.core import words
from shared import wire


def where(done: wire.Exported) -> str:
    """833 pictures with 830 captions in /home/ana/dragons.zip"""
    pictures = words.plural(done.pictures, "picture")
    return f"{pictures} with {words.plural(done.captions, 'caption')} in {done.path}"


def framed(done: wire.Exported, applied: bool, how: str) -> str:
    """What became of turns and crops; ``how``: they would have been applied."""
    those = words.plural(done.framed, "picture is", "pictures are")
    if applied:
        return f"{those} written as turned or cropped here."
    return f"{those} turned or cropped here but written as in the file ({how} writes what is seen)."


def summed(done: wire.Exported, applied: bool, how: str) -> str:
    """All of it in one message."""
    said = [f"{where(done)}."]
    if done.warnings:
        said.append(f"{len(done.warnings)} left out: {done.warnings[0]}")
    if done.renamed:
        here, there = done.renamed[0]
        more = f", and {len(done.renamed) - 1} more" if done.renamed[1:] else ""
        said.append(f"{here} is {there} there, as the name was taken{more}.")
    if done.framed:
        said.append(framed(done, applied, how))
    return " ".join(said)
