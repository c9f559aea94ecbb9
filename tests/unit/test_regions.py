"""Regions in words: read and written, in tags, in mixes, on the command line; refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from lora_tui.commands.generate import lora_use
from shared import lora_tags, mixes, regions
from shared.errors import Code, LoraError
from shared.mixes import MixLora, MixSpec
from shared.pictures import LoraUse
from shared.regions import Region

LEFT = Region(right=0.5)


def call(here: Path) -> Any:
    return SimpleNamespace(remote=False, daemon_path=lambda text: str(here / text))


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("left", LEFT),
        ("bottom~0", Region(top=0.5, feather=0)),
        ("0.1,0.2,0.6,0.9~0.3", Region(left=0.1, top=0.2, right=0.6, bottom=0.9, feather=0.3)),
        ("masks/a b.png", Region(picture="masks/a b.png", feather=0)),
        ("c:x>~1.png~0.2", Region(picture="c:x>~1.png", feather=0.2)),
    ],
)
def test_a_region_is_read_as_it_is_said(text: str, region: Region) -> None:
    assert regions.read(text) == region
    said = regions.said(region)
    assert regions.read(said) == region
    assert not set(said) & set(":<>")  # these would end it inside a tag


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lefty",
        "left~",
        "left~2",
        "left~nan",
        "0.1,0.2,0.3",
        "0.6,0,0.5,1",
        "0,0,1,1.5",
        "~0.1",
        ".",
    ],
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(LoraError) as caught:
        regions.read(text)
    assert caught.value.code is Code.BAD_REQUEST


def test_a_mix_with_regions_is_kept_and_reads_back_from_its_prompt() -> None:
    spec = MixSpec(prompt="a cat", loras=[MixLora(lora="a", weight=0.8, region=LEFT)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=MixSpec) == spec
    assert mixes.webui(spec) == "a cat <lora:a:0.8:where=left>"
    assert lora_tags.taken(mixes.webui(spec))[1] == [LoraUse(lora="a", weight=0.8, region=LEFT)]
    moved = mixes.with_lora(spec, replace(spec.loras[0], region=regions.read("right")))
    turned = mixes.with_lora(spec, replace(spec.loras[0], weight=0.5))
    both = mixes.merged(spec, moved, turned).loras[0]
    assert (both.weight, mixes.part_of_picture(both)) == (0.5, "right")


def test_a_region_stands_behind_a_lora_on_the_command_line(tmp_path: Path) -> None:
    here = call(tmp_path)
    assert lora_use(here, "ink:0.8@left") == LoraUse(lora="ink", weight=0.8, region=LEFT)
    assert lora_use(here, "ink@left") == LoraUse(lora="ink", region=LEFT)
    assert lora_use(here, "me@home:0.5") == LoraUse(lora="me@home", weight=0.5)
    mask = lora_use(here, "ink:1@m.png").region
    assert mask is not None and mask.picture == str(tmp_path / "m.png")
    with pytest.raises(LoraError):
        lora_use(here, "ink:0.8@lefty")
    (tmp_path / "ink.safetensors").touch()
    with pytest.raises(LoraError, match="lefty is no region"):
        lora_use(here, f"{tmp_path / 'ink.safetensors'}@lefty")
