"""The reducer: after any events it says what the tables say."""

from __future__ import annotations

import msgspec

from shared import wire
from shared.state import PART, apply, joined, parts

LORA = wire.Lora(
    name="one", path="/l", size=1, rank=8, base="b", trigger="", run="r0001", step=1, sha256="",
    created=1.0,
)  # fmt: skip


def lora(name: str, **fields: int) -> wire.LoraChanged:
    return wire.LoraChanged(lora=msgspec.structs.replace(LORA, name=name, **fields))


def names(state: wire.State) -> list[str]:
    return [lora.name for lora in state.loras]


def test_a_new_thing_is_added_at_the_end() -> None:
    state = apply(apply(wire.State(), lora("b")), lora("a"))
    assert names(state) == ["b", "a"]


def test_a_changed_thing_stays_in_its_place() -> None:
    state = apply(apply(apply(wire.State(), lora("a")), lora("b")), lora("a", size=9))
    assert names(state) == ["a", "b"]
    assert state.loras[0].size == 9


def test_a_removed_thing_is_gone_and_removing_it_again_changes_nothing() -> None:
    state = apply(apply(wire.State(), lora("a")), lora("b"))
    for _ in range(2):
        state = apply(state, wire.LoraRemoved(lora="a"))
        assert names(state) == ["b"]


def test_the_state_before_is_left_as_it_was() -> None:
    before = apply(wire.State(), lora("a"))
    apply(before, lora("b"))
    apply(before, wire.LoraRemoved(lora="a"))
    assert names(before) == ["a"]


def test_captions_are_not_part_of_it() -> None:
    caption = wire.Caption(text="", state="accepted", rev=2, source="person", by="me", at=1.0)
    event = wire.CaptionChanged(dataset="d", item="i", caption=caption)
    assert apply(wire.State(), event) == wire.State()


def test_every_event_has_its_place_in_the_reducer() -> None:
    from shared import state

    elsewhere = {
        wire.CaptionChanged, wire.CaptionsChanged, wire.CheckpointJudged, wire.GalleryChanged,
        wire.PictureRated,
    }  # fmt: skip
    known = {*state._PUTS, *state._REMOVALS, *elsewhere}
    assert known == set(wire.Event.__subclasses__())


def test_a_large_state_travels_in_parts() -> None:
    rows = [msgspec.structs.replace(LORA, name=str(number)) for number in range(2 * PART + 1)]
    bases = [wire.BaseModel(name="b", path="", family="", resolution=0, size=0, problem="")]
    state = wire.State(loras=rows, bases=bases)
    pieces = list(parts(state))
    assert [len(piece.loras) for piece in pieces] == [PART, PART, 1]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = joined(whole, piece)
    assert whole == state
    assert list(parts(wire.State())) == [wire.State()]
