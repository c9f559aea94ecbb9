"""What a LoRA's metadata and singular values come to, and how its card reads."""

from __future__ import annotations

import pytest

from lora_tui.core import card_lines
from shared import lora_cards
from shared.lora_cards import BlockSpectrum, LoraCard, ModuleSpectrum, Spectrum, Tag, Twins


def test_the_effective_rank_is_between_one_and_the_rank() -> None:
    assert lora_cards.effective_rank([5.0, 0.0, 0.0]) == pytest.approx(1)
    assert lora_cards.effective_rank([2.0] * 8) == pytest.approx(8)
    assert lora_cards.effective_rank([0.0, 0.0]) == 0 and lora_cards.effective_rank([]) == 0


def test_losses_are_over_all_modules_of_any_rank() -> None:
    modules = [
        ModuleSpectrum(module=str(at), block="M00", effective=1, values=values)
        for at, values in enumerate(([3.0, 0.0], [2.0, 2.0, 2.0]))
    ]
    assert lora_cards.losses(modules) == pytest.approx([(8 / 21) ** 0.5, (4 / 21) ** 0.5, 0.0])


@pytest.mark.parametrize(
    ("metadata", "resolution", "made", "base"),
    [
        ({"ss_resolution": "512", "ss_training_finished_at": "nan"}, "512x512", "", ""),
        ({"modelspec.resolution": "640x960", "modelspec.date": "2024-05-01"}, "640x960",
         "2024-05-01", ""),
        ({"ss_resolution": "None", "ss_sd_model_name": "C:\\\\m\\\\any.v5.safetensors"}, "", "",
         "any.v5"),
        ({"ss_training_finished_at": "1e99", "ss_base_model_version": "sdxl_base_v1-0"}, "", "",
         "sdxl_base_v1-0"),
    ],
)  # fmt: skip
def test_metadata_of_any_tool_is_read_or_passed_over(
    metadata: dict[str, str], resolution: str, made: str, base: str
) -> None:
    assert lora_cards.resolution(metadata) == resolution
    assert lora_cards.made(metadata) == made and lora_cards.said_base(metadata) == base


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"a": {"b": "c"}}', "null"])
def test_a_damaged_table_of_tags_is_none(damaged: str) -> None:
    assert lora_cards.tags({"ss_tag_frequency": damaged}) == []


def test_a_card_reads_without_colours() -> None:
    block = BlockSpectrum(block="OUT05", modules=9, rank=16, effective=4.0, energy=2.0)
    spectrum = Spectrum(
        rank=16, effective=4.0, energy=2.0, losses=[0.5, 0.05, *[0.0] * 14], plain=True,
        blocks=[block], modules=[], notes=["3 DoRA modules."],
    )  # fmt: skip
    card = LoraCard(
        name="dragons", path="/d.safetensors", size=9, leak=0.25, tags=[Tag("wings", 4)],
        twins=Twins(same=["copy"], unread=2, known=True), spectrum=spectrum,
        advice=lora_cards.advice("dragons", spectrum),
    )  # fmt: skip
    rows = ["".join(text for text, _ in row).rstrip() for row in card_lines.lines(card)]
    assert rows[0] == "dragons" and "wings 4" in rows
    assert "leak        25% of its effect shows without the trigger word" in rows
    assert "same as     copy; 2 of its shapes not yet compared (lora-tui lora duplicates)" in rows
    assert "Of rank 16, 4.0 are in effect; rank 2 leaves out at most 10% of ΔW." in rows
    (drawn,) = (row for row in rows if row.startswith("OUT05"))
    assert drawn.split() == ["OUT05", "4.0", "████", "16", "100%"]
    assert sum("lora resize dragons --rank 2" in row for row in rows) == 1
    assert rows[-1] == "3 DoRA modules."
    assert not any(row.startswith("trigger") for row in rows)


@pytest.mark.parametrize(("share", "drawn"), [(0, ""), (1 / 32, "▌"), (1, "█" * 16), (7, "█" * 16)])
def test_a_bar_is_drawn_to_an_eighth_of_a_cell(share: float, drawn: str) -> None:
    assert card_lines.bar(share) == drawn.ljust(16)
