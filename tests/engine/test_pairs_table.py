"""The campaign over pairs of LoRAs: the table of what lies in its folder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from bench.pairs import table
from bench.pairs.painting import Arms, Row
from bench.pairs.plan import PLAIN, STRENGTHS, Group, Pair, pairs
from bench.pairs.product import Known, Said
from bench.pairs.reading import uses
from bench.pairs.training import file_of
from lora_daemon.starter.classifiers import LABELS
from shared.files import publish
from shared.pictures import LoraUse
from shared.probes import Probe, Remedy

COUNT = 24
SOLO, BASE = 4.0, -2.0  # margins of what is asked for


def kept(pair: Pair, at: tuple[float, float]) -> tuple[float, float]:
    """Of each effect in the mix: the more the style is turned up, the less of the content."""
    strong = 0.4 + 0.2 * pairs("development").index(pair) / 3
    return min(1.0, at[0] * (1 - strong * at[1])), min(1.0, 0.9 * at[1])


class Folder:
    """A work folder as a campaign leaves it."""

    def __init__(self, work: Path) -> None:
        self.work, self.arms, self.known = work, Arms(work), Known(work)

    def paint(
        self, group: Group, arm: Sequence[LoraUse], of: Pair, shares: Sequence[float],
        right: float = 1.0,
    ) -> None:  # fmt: skip
        draw = random.Random(f"{group}{arm}")
        rows = []
        for _, wanted in group.asked(COUNT):
            seen = {name: labels[0] for name, labels in LABELS.items()}
            logits = {name: [0.0] * len(labels) for name, labels in LABELS.items()}
            said = dict(zip(("object", "colour", "background"), wanted, strict=True))
            seen |= said if draw.random() < right else {}
            for name, label, share in (
                ("object", of.content.shows, shares[0]), ("style", of.style.shows, shares[1]),
            ):  # fmt: skip
                margin = BASE + (SOLO - BASE) * share + draw.gauss(0, 0.2)
                logits[name][LABELS[name].index(label)] = margin
            rows.append(msgspec.json.encode(Row(seen=seen, logits=logits)) + b"\n")
        self.arms.file(group, arm).write_bytes(b"".join(rows))

    def pair(self, pair: Pair, remedy: tuple[float, float], right: float = 1.0) -> None:
        """Its arms, its score, and a remedy that has such effects and obeys as often."""
        for taught in pair.both:
            file = file_of(self.work, taught)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(taught.name)
        others = Group("", pair.style.shows)
        self.paint(pair.group, [], pair, (0.0, 0.0))
        for at in PLAIN:
            mix = uses(self.work, pair, at)
            self.paint(pair.group, mix, pair, kept(pair, at))
            self.paint(others, mix, pair, (0.0, 0.0))
            for of, use in enumerate(mix):
                alone = [0.0, 0.0]
                alone[of] = min(at[of], 1.0)
                self.paint(pair.group, [use], pair, alone)
        better = [msgspec.structs.replace(use, blocks=[0.9] * 10) for use in uses(
            self.work, pair, STRENGTHS[0])]  # fmt: skip
        self.paint(pair.group, better, pair, remedy, right)
        self.paint(others, better, pair, (0.0, 0.0), right)
        found = Remedy(kind="blocks", loras=better, predicted=[1, 1], measured=[1, 1])
        for number, at in enumerate(STRENGTHS):
            survival = [one / weight for one, weight in zip(kept(pair, at), at, strict=True)]
            told = Probe(
                base="starter", loras=["a", "b"], weights=[*at], prompts=[], samples=16,
                sentence="", energy=[1.0, 1.0], survival=survival, bands=[], blocks=[],
                instead=[], remedies=[found] if number == 0 else [], notes=[],
                losses=[1 - one for one in survival],
            )  # fmt: skip
            said = Said(asked=told, learnt=told, files=None, norms=[*at])
            file = self.known.file(pair.group, uses(self.work, pair, at), number == 0)
            publish(file, msgspec.json.encode(said))


def test_a_partial_campaign_has_a_table(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    every = pairs("development")
    assert "too few" in table.lines(table.found(tmp_path, ["development", "test"]))
    folder.pair(every[0], remedy=(0.95, 0.95))
    folder.pair(every[1], remedy=(0.95, 0.95), right=0.7)  # but it does not obey
    folder.pair(every[2], remedy=(0.3, 0.9))  # no help
    folder.pair(every[3], remedy=(0.95, 0.95))
    told = table.found(tmp_path, ["development"])["development"]
    assert len(told["directed"]) == 4 * 2 * len(STRENGTHS)
    for one in told["directed"]:
        pair = next(pair for pair in every if pair.name == one["pair"])
        of = one["of"] == pair.style.name
        whole = min(one["weights"][of], 1.0)
        assert one["loss"] == pytest.approx(1 - kept(pair, one["weights"])[of] / whole, abs=0.08)
        assert one["interval"][0] <= one["loss"] <= one["interval"][1]
    assert told["equal"]["values"] == 8
    assert told["all"]["spearman"] > 0.9 > told["all"]["others"]["norms"]["spearman"]
    assert [one["works"] for one in told["remedies"]] == [True, False, False, True]
    assert told["remedies"][1]["obeys"][1] < told["remedies"][1]["obeys"][0] - 0.1
    assert (told["won_back"], told["of"]) == (2, 4)
    assert "2 of 4" in table.lines({"development": told})


def test_what_other_code_said_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    pair = pairs("development")[0]
    folder.pair(pair, remedy=(0.9, 0.9))
    wanted = uses(tmp_path, pair, STRENGTHS[0])
    assert folder.known.known(pair.group, wanted, remedies=True) is not None
    monkeypatch.setattr("bench.pairs.product.inspect.getsource", lambda module: "other code")
    assert folder.known.known(pair.group, wanted, remedies=True) is None
