"""Mixes: two changes meet, what counts of a mix, and how it reads in a WebUI."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shared import lora_tags, mixes
from shared.mixes import Clash, MixLora, MixSpec, merged

SPEC = MixSpec(loras=[MixLora(lora="a", weight=0.5), MixLora(lora="b", weight=1.0)], prompt="x")


def row(name: str, **changes: object) -> MixSpec:
    """SPEC with one LoRA changed."""
    loras = [replace(one, **changes) if one.lora == name else one for one in SPEC.loras]
    return replace(SPEC, loras=loras)


def test_changes_of_different_things_both_stay() -> None:
    theirs = replace(row("a", weight=0.9), prompt="theirs")
    mine = replace(row("b", weight=0.1), seed=7)
    found = merged(SPEC, mine, theirs)
    assert [one.weight for one in found.loras] == [0.9, 0.1]
    assert (found.prompt, found.seed) == ("theirs", 7)
    both = merged(SPEC, row("a", muted=True), row("a", weight=0.9))
    assert both.loras[0] == MixLora(lora="a", weight=0.9, muted=True)


def test_changes_of_the_same_value_clash_unless_they_agree() -> None:
    with pytest.raises(Clash) as caught:
        merged(SPEC, row("a", weight=0.1), row("a", weight=0.9))
    assert caught.value.what == "a"
    assert merged(SPEC, row("a", weight=0.9), row("a", weight=0.9)) == row("a", weight=0.9)
    with pytest.raises(Clash):
        merged(SPEC, replace(SPEC, prompt="mine"), replace(SPEC, prompt="theirs"))
    with pytest.raises(Clash):  # turned by one, taken out by the other
        merged(SPEC, mixes.without(SPEC, ["a"]), row("a", weight=0.9))


def test_loras_are_added_and_taken_out_side_by_side() -> None:
    theirs = mixes.with_lora(SPEC, MixLora(lora="theirs"))
    mine = mixes.with_lora(mixes.without(SPEC, ["a"]), MixLora(lora="mine"))
    assert [one.lora for one in merged(SPEC, mine, theirs).loras] == ["b", "theirs", "mine"]


def test_nothing_changed_since_takes_the_change_as_it_is() -> None:
    loaded = MixSpec(base="other", loras=[MixLora(lora="c")])
    assert merged(SPEC, loaded, SPEC) == loaded


def test_muted_loras_do_not_count_and_with_a_solo_only_those_do() -> None:
    assert [one.lora for one in mixes.heard(row("a", muted=True))] == ["b"]
    assert [one.lora for one in mixes.heard(row("a", solo=True))] == ["a"]
    assert mixes.heard(row("a", solo=True, muted=True)) == []
    assert [one.lora for one in mixes.picture(row("b", solo=True)).loras] == ["b"]


def test_a_mix_reads_in_a_webui_as_it_is_here() -> None:
    blocks = [1.0] * 16 + [0.5]
    spec = MixSpec(
        prompt="a cat",
        loras=[
            MixLora(lora="a", weight=0.8, text_weight=0.4, blocks=blocks),
            MixLora(lora="/loras/b.safetensors", weight=-0.3),
            MixLora(lora="c", muted=True),
        ],
    )
    text = mixes.webui(spec)
    prompt, uses = lora_tags.taken(text)
    assert prompt == "a cat"
    assert uses == [
        replace(mixes.use(spec.loras[0])),
        replace(mixes.use(spec.loras[1]), lora="b"),
    ]
