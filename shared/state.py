"""One reducer for state: a snapshot plus every later event gives the present, on either side."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared import wire

PART = 2_000  # rows of a table in one part of a state

# event → (table of State, its key, the event's field). A removal's field is the key itself.
_PUTS: dict[type[wire.Event], tuple[str, str, str]] = {
    wire.DatasetChanged: ("datasets", "id", "dataset"),
    wire.RunChanged: ("runs", "id", "run"),
    wire.LoraChanged: ("loras", "name", "lora"),
    wire.BaseChanged: ("bases", "name", "base"),
    wire.PictureAdded: ("pictures", "id", "picture"),
    wire.FilterSaved: ("filters", "name", "saved"),
    wire.MixChanged: ("mixes", "name", "mix"),
    wire.MixTried: ("tried", "id", "tried"),
}
_REMOVALS: dict[type[wire.Event], tuple[str, str, str]] = {
    wire.DatasetRemoved: ("datasets", "id", "dataset"),
    wire.RunRemoved: ("runs", "id", "run"),
    wire.LoraRemoved: ("loras", "name", "lora"),
    wire.BaseRemoved: ("bases", "name", "base"),
    wire.PictureRemoved: ("pictures", "id", "picture"),
    wire.FilterRemoved: ("filters", "name", "name"),
    wire.MixRemoved: ("mixes", "name", "name"),
    wire.TriedForgotten: ("tried", "id", "tried"),
}


def apply(state: wire.State, event: wire.AnyEvent) -> wire.State:
    """The state after ``event``. Captions are not part of it, nor what is known of a run's
    checkpoints: what changes them changes nothing."""
    kind = type(event)
    if kind in _PUTS:
        table, key, field = _PUTS[kind]
        value = getattr(event, field)
        rows = list(getattr(state, table))
        place = next((i for i, r in enumerate(rows) if getattr(r, key) == getattr(value, key)), -1)
        if place < 0:
            rows.append(value)
        else:
            rows[place] = value
    elif kind in _REMOVALS:
        table, key, field = _REMOVALS[kind]
        rows = [r for r in getattr(state, table) if getattr(r, key) != getattr(event, field)]
    else:
        return state
    return msgspec.structs.replace(state, **{table: rows})


def parts(state: wire.State) -> Iterator[wire.State]:
    """The state in pieces small enough for one message each; at least one."""
    tables = {name: getattr(state, name) for name in wire.State.__struct_fields__}
    for first in range(0, max(1, *map(len, tables.values())), PART):
        yield wire.State(**{name: rows[first : first + PART] for name, rows in tables.items()})


def joined(first: wire.State, second: wire.State) -> wire.State:
    """The rows of both."""
    return wire.State(
        **{
            name: getattr(first, name) + getattr(second, name)
            for name in wire.State.__struct_fields__
        }
    )
