"""A dataset's health in lines of text, and the command that mends a finding."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lora_tui.core import words
from lora_tui.core.cells import clean
from shared.health import KINDS, Advice, Finding, Fix, Health, Kind


def lines(health: Health) -> Iterator[str]:
    """Everything: what was found with why it matters and what mends it, then advice."""
    yield clean(f"{health.name}: {about(health)}")
    found = [one for one in health.findings if one.count]
    for one in found:
        kind = KINDS[one.kind]
        yield ""
        yield f"{counted(one)}: {kind.title}"
        yield f"    {kind.meaning}"
        yield from (f"    {clean(example)}" for example in one.examples)
        if one.more:
            yield f"    … and {words.count(one.more)} more"
        if one.filter:
            yield f"    see  {listing(health, one.filter)}"
        if one.fix is not None:
            yield f"    fix  {command(health, one.fix)}"
    if not found:
        yield "Nothing was found."
    unknown: dict[str, list[str]] = {}
    for one in health.findings:
        if one.unknown:
            unknown.setdefault(one.unknown, []).append(KINDS[one.kind].title)
    yield ""
    yield from (clean(f"not known: {', '.join(of)} – {why}") for why, of in unknown.items())
    yield from advice(health.advice)


def about(health: Health) -> str:
    """833 pictures, for training at 512 px with the trigger word sks."""
    told = f"{words.plural(health.pictures, 'picture')}, for training at {health.resolution} px"
    if health.trigger:
        told += f" with the trigger word {health.trigger}"
    if health.unchecked:
        told += f"; {words.count(health.unchecked)} not measured yet"
    return told


def counted(one: Finding) -> str:
    """12 pictures."""
    kind: Kind = KINDS[one.kind]
    return words.plural(one.count, kind.of)


def advice(told: list[Advice]) -> Iterator[str]:
    """Each advice and why."""
    yield "What the set is good for"
    for one in told:
        yield clean(f"  {one.about}: {one.text}")
        yield clean(f"    {one.why}")


def listing(health: Health, filter: str) -> str:
    """The command that lists a finding's pictures."""
    return shlex.join(["lora-tui", "caption", "list", health.name, "--filter", filter])


def command(health: Health, fix: Fix) -> str:
    """The command that does the same as a fix."""
    if fix.state == "rejected":
        return shlex.join(["lora-tui", "caption", "reject", health.name, "--filter", fix.filter])
    said = ["lora-tui", "caption", "edit", health.name, "--filter", fix.filter]
    for edit in fix.edits:
        config = edit.__struct_config__
        said += [f"--{config.tag}", *(str(getattr(edit, f)) for f in edit.__struct_fields__)]
    return shlex.join(said)
