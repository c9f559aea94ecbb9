"""Axes as people write them, and the pictures that they stand for."""

from __future__ import annotations

import pytest

from shared import grids
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec

SPEC = PictureSpec(
    prompt="a red house", negative="red sky",
    loras=[LoraUse(lora="ink", weight=0.5), LoraUse(lora="/x/dragons.safetensors")],
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=1,2, 5", ["1", "2", "5"]),
        ("seed=3-6", ["3", "4", "5", "6"]),
        ("seed=10-1 (+4)", ["10", "6", "2"]),
        ("seed=9007199254740993", ["9007199254740993"]),
        ("weight=0-1 (+0.25)", ["0", "0.25", "0.5", "0.75", "1"]),
        ("weight=-1-1 [3]", ["-1", "0", "1"]),
        ("weight:ink=0-0.3 (+.1)", ["0", "0.1", "0.2", "0.3"]),
        ("cfg=7.5", ["7.5"]),
        ("sampler=euler a,DPM++ 2M", ["Euler a", "DPM++ 2M"]),
        ('prompt=red house,"blue, small house"', ["red house", "blue, small house"]),
        ("lora:ink=/y/ink-000004.safetensors,ink", ["/y/ink-000004.safetensors", "ink"]),
    ],
)
def test_values_are_read_as_the_webui_reads_them(text: str, values: list[str]) -> None:
    assert grids.read(text).values == values


def test_each_axis_changes_what_it_names_and_nothing_else() -> None:
    def last(*axes: str) -> PictureSpec:
        return grids.cells(SPEC, [grids.read(axis) for axis in axes])[-1].spec

    def weights(spec: PictureSpec) -> list[float]:
        return [use.weight for use in spec.loras]

    assert weights(last("weight=0.1,2")) == [2, 2]
    assert weights(last("weight:dragons=0.1,2")) == [0.5, 2]
    assert last("text-weight:ink=0.3").loras[0].text_weight == 0.3
    assert [use.guidance for use in last("guidance:ink=0,2.5").loras] == [2.5, 0]
    assert last("seed=4").seed == 4 and last("seed=4").prompt == SPEC.prompt
    assert (last("size=64x32").width, last("size=64x32").height) == (64, 32)
    assert last("base=sd15").base == "sd15"
    assert last("sampler=heun").sampler == "Heun"
    blue = last("prompt=red,blue")
    assert (blue.prompt, blue.negative) == ("a blue house", "blue sky")
    swapped = last("lora:ink=ink-000004", "weight:ink=0.9")
    assert swapped.loras[0] == LoraUse(lora="ink-000004", weight=0.9)


def test_cells_lie_along_the_axes_in_order() -> None:
    cells = grids.cells(SPEC, [grids.read("seed=1,2,3"), grids.read("cfg=3,5")])
    assert [cell.at for cell in cells] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert cells[3].labels == ("seed 2", "cfg 5")
    assert (cells[3].spec.seed, cells[3].spec.cfg) == (2, 5.0)


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("seed", "NAME=VALUES"),
        ("colour=red", "'colour=red' is not an axis"),
        ("seed=", "no values"),
        ("seed=1,,2", "neither a number nor a range"),
        ("prompt=red,,blue", "an empty one"),
        ("seed=1.5", "not a whole number"),
        ("seed=1-5 (+0)", "step of 0"),
        ("seed=1-5 [0]", "no values"),
        ("seed=1-1000", "at most 400"),
        ("seed:ink=1", "is not a LoRA's"),
        ("lora=a,b", "which LoRA"),
        ("weight:pencil=1", "no LoRA 'pencil'"),
        ("weight=11", "cannot be painted"),
        ("steps=0", "cannot be painted: steps must be at least 1."),
        ("size=big", "512x512"),
        ("sampler=fast", "no sampler 'fast'. There are Euler, "),
        ("sampler=dpm++ 2m karas", "Did you mean DPM++ 2M Karras"),
        ("prompt=green,blue", "'green' is in neither prompt"),
    ],
)
def test_what_cannot_be_read_or_painted_is_said(axis: str, said: str) -> None:
    with pytest.raises(LoraError) as refused:
        grids.cells(SPEC, [grids.read(axis)])
    assert refused.value.code is Code.BAD_REQUEST
    assert said in refused.value.message


def test_a_grid_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(LoraError, match="would be 1200 pictures"):
        grids.cells(SPEC, [grids.read("seed=1-300"), grids.read("cfg=1-4")])
