"""What a probe found, in words and cells."""

from __future__ import annotations

from msgspec import structs

from lora_tui.core import probe_table
from shared import lora_info, mixes, probes
from shared.conflicts import Place
from shared.mixes import MixLora, MixSpec
from shared.pictures import LoraUse
from shared.probes import Band, Probe, Remedy


def probe(survived: list[float], remedies: list[Remedy] | None = None) -> Probe:
    names = ["ink", "pencil"]
    bands = [
        Band(begin=n / 4, end=(n + 1) / 4, energy=[1.0, 1.0],
             survival=[survived[0] - 0.4 * (n == 3) + 0.4 / 3 * (n != 3), survived[1]])
        for n in range(4)
    ]  # fmt: skip
    place = Place(block="OUT05", met=1, energy=[1.0, 1.0], touched=[[0.0, 0.0]] * 2,
                  overlap=[[0.5, -0.3], [0.0, 0.4]])  # fmt: skip
    return Probe(
        base="sd15", loras=names, weights=[1.0, 0.8], prompts=["a cat"], samples=8,
        sentence=probes.sentence("sd15", names, survived, bands, [place], {"OUT05": "up.1"}),
        energy=[4.0, 4.0], survival=survived, bands=bands, blocks=[place], instead=[],
        remedies=remedies or [], notes=["ink: 2 modules have no place."],
    )  # fmt: skip


def text(found: Probe) -> str:
    return "\n".join("".join(cell for cell, _ in row) for row in probe_table.lines(found))


def test_a_person_reads_who_loses_what_where() -> None:
    shown = text(probe([0.4, 0.95]))
    assert shown.startswith(
        "On sd15 ink keeps 40% of its effect in the mix, pencil 95%. It loses most in the last "
        "quarter of the steps, most of it (30%) to pencil in up.1 (OUT05)."
    )
    assert "OUT05    +.50   −.30      ·   +.40" in shown
    assert "ink: 2 modules have no place." in shown
    again = structs.replace(probe([0.4, 0.95]), prompts=["a cat", "", "a cat"])
    assert "without LoRAs: a cat; (no prompt)." in text(again)


def test_peace_and_doubling_are_told_apart() -> None:
    assert "they do not fight" in probe([0.95, 1.05]).sentence
    assert "ink is as strong as at 160%" in probe([1.6, 1.0]).sentence
    assert "nothing of its effect" in probe([-0.2, 1.0]).sentence


def test_a_remedy_says_what_it_promised_and_what_it_holds() -> None:
    uses = [LoraUse(lora="ink", weight=1.2), LoraUse(lora="pencil", weight=0.8, begin=0.5)]
    one = Remedy(kind="steps", loras=uses, predicted=[0.8, 0.9], measured=[0.7, 0.9])
    shown = text(probe([0.4, 0.95], [one]))
    assert (
        "1 each in its part of the steps: ink 40% → 70% (predicted 80%), pencil 95% → 90%" in shown
    )
    assert "  pencil 0.8, steps 0.5-1.0" in shown
    assert shown.index("1 each in its part") < shown.index("What each block adds")
    spec = MixSpec(
        loras=[MixLora(lora="/x/ink.safetensors"), MixLora(lora="quiet", muted=True),
               MixLora(lora="pencil")]
    )  # fmt: skip
    after = mixes.remedied(spec, uses)
    assert [(row.lora, row.weight, row.begin) for row in after.loras] == [
        ("/x/ink.safetensors", 1.2, 0.0), ("quiet", 1.0, 0.0), ("pencil", 0.8, 0.5),
    ]  # fmt: skip
    assert "<lora:pencil:0.8:start=10>" in mixes.webui(after)


def test_losses_come_with_what_they_are_worth() -> None:
    uses = [LoraUse(lora="ink", weight=1.2), LoraUse(lora="pencil", weight=0.8)]
    one = Remedy(
        kind="weights", loras=uses, predicted=[1, 1], measured=[1, 1], kept=[0.9, 0.8]
    )  # fmt: skip
    shown = text(structs.replace(probe([0.4, 0.95], [one]), losses=[0.4, 0.1], seen=8))
    assert "Losses are foretold from 8 pictures each" in shown and "no promise" in shown
    assert "ink 60% → 90%, pencil 90% → 80% of what it shows alone" in shown


def test_what_a_lora_learnt_to_show_is_in_its_file() -> None:
    def prompts(tags: str, most: int = 2, trigger: str = "") -> list[str]:
        return lora_info.prompts(
            {"ss_tag_frequency": tags, "modelspec.trigger_phrase": trigger}, most
        )

    captions = '{"d": {"a red dragon on a hill": 3, "a blue dragon by the sea": 9}}'
    assert prompts(captions) == ["a blue dragon by the sea", "a red dragon on a hill"]
    assert prompts(captions, 1, "drg") == ["drg, a blue dragon by the sea"]
    assert prompts('{"d": {"solo": 9, "dragon": 10}}') == ["dragon, solo"]
    assert prompts("{", trigger="drg") == ["drg"] and prompts("{}") == []
