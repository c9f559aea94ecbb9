"""The campaign over pairs of LoRAs: arms painted with folded weights, kept, and gone on with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.pairs import painting, product, reading
from bench.pairs.painting import Arms, Painter, folded
from bench.pairs.plan import Group
from lora_daemon.engine import lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Mix, Strength
from shared.pictures import LoraUse

LINEAR = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "down_blocks_0_resnets_0_conv1"
GROUP = Group("ghost", "neon")


@pytest.fixture(scope="module")
def lora(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA, a LoHa and a DoRA in one file."""
    draw = torch.Generator().manual_seed(3)
    names = {name: path for path, name in base.unet_names.items()}
    tensors = {}
    for module, kind in ((LINEAR, "dora"), (CONV, "lora"), (LINEAR.replace("_q", "_k"), "loha")):
        name = f"lora_unet_{module}"
        high, wide, *kernel = base.unet.get_submodule(names[name]).weight.shape
        ones = [1 for _ in kernel]
        if kind == "loha":
            for half in ("1", "2"):
                tensors[f"{name}.hada_w{half}_a"] = torch.randn(high, 2, generator=draw)
                tensors[f"{name}.hada_w{half}_b"] = torch.randn(2, wide, generator=draw)
            continue
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, wide, *kernel, generator=draw) * 0.1
        tensors[f"{name}.lora_up.weight"] = torch.randn(high, 2, *ones, generator=draw) * 0.1
        if kind == "dora":
            tensors[f"{name}.dora_scale"] = torch.rand(high, 1, generator=draw) + 0.5
    file = tmp_path_factory.mktemp("loras") / "all-kinds.safetensors"
    save_file(tensors, file)
    return file


def test_folded_is_what_live_is_and_leaves_the_base_as_it_was(base: Base, lora: Path) -> None:
    mix = Mix(base, [lora_file.load(lora, base).modules] * 2)
    mix.set([Strength(0.7), Strength(-0.3, values=(1.0, 0.5) * 5)])
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    seen = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = base.encode_text("a red house")
    timestep = torch.tensor(500)
    with torch.no_grad():
        plain = base.denoise(seen, timestep, text)
        with mix.on():
            live = base.denoise(seen, timestep, text)
        with folded(mix):
            found = base.denoise(seen, timestep, text)
    assert (live - plain).norm() > 0.01 * plain.norm()
    assert (found - live).norm() < 1e-4 * (live - plain).norm()
    assert all(torch.equal(one, before[name]) for name, one in base.unet.state_dict().items())


def test_an_arm_goes_on_where_it_was_cut_off(
    base: Base, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "STEPS", 2)
    monkeypatch.setitem(painting.BATCH, "cpu", 2)
    arms = Arms(tmp_path)
    painter = Painter(base, arms)
    use = LoraUse(lora=str(lora), weight=0.5)
    assert painter.upto(3, GROUP, [use]) == 3
    rows = arms.rows(GROUP, [use])
    assert painter.upto(3, GROUP, [use]) == 0
    with arms.file(GROUP, [use]).open("r+b") as file:  # killed while it wrote the third
        file.truncate(arms.file(GROUP, [use]).stat().st_size - 40)
    assert arms.rows(GROUP, [use]) == rows[:2]
    assert painter.upto(4, GROUP, [use]) == 2
    assert arms.rows(GROUP, [use])[:2] == rows[:2]
    again = arms.rows(GROUP, [use])[2]
    assert again.logits["object"] == pytest.approx(rows[2].logits["object"], abs=0.01)
    assert again.margin("object", "ghost") <= max(again.logits["object"])


def test_an_arm_is_known_by_what_decides_its_pictures(lora: Path, tmp_path: Path) -> None:
    arms = Arms(tmp_path)
    use = LoraUse(lora=str(lora))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(lora.read_bytes())
    same = [use, LoraUse(lora=str(copy), weight=0.0)]
    assert arms.file(GROUP, [use]) == arms.file(GROUP, same)
    assert arms.file(GROUP, [use]) == arms.file(GROUP, [LoraUse(lora=str(copy))])
    others = [
        arms.file(GROUP, []),
        arms.file(GROUP, [LoraUse(lora=str(lora), weight=0.9)]),
        arms.file(GROUP, [LoraUse(lora=str(lora), end=0.5)]),
        arms.file(Group("ghost", "pencil"), [use]),
    ]
    assert len({arms.file(GROUP, [use]), *others}) == 5


def test_the_daemon_s_own_code_answers(
    base: Base, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked once, then from the disk. A DoRA has a part in the probe, in the norms, and none in
    what files alone say."""
    monkeypatch.setattr(product, "PROMPTS", 1)
    monkeypatch.setattr(product, "PICTURES", 1)
    asked = product.Product(tmp_path, Painter(base, Arms(tmp_path)))
    pair = [LoraUse(lora=str(lora)), LoraUse(lora=str(lora), weight=0.5)]
    said = asked.ask(GROUP, pair)
    assert said.asked.prompts == [words for words, _ in GROUP.asked(1)]
    assert said.asked.survival[0] > 1  # the other adds to it: it is the same
    lost = [math.nan if one is None else one for one in said.asked.losses]
    assert [reading.score(said, of) for of in (0, 1)] == pytest.approx(lost, nan_ok=True)
    assert said.norms[0] == pytest.approx(2 * said.norms[1])
    assert said.files is not None
    assert said.files.whole.overlap[0][1] == pytest.approx(0.5, abs=0.01)
    assert product.Known(tmp_path).known(GROUP, pair, remedies=False) == said
    assert product.Known(tmp_path).known(GROUP, pair, remedies=True) is None
    assert asked.zip(pair) is None  # its columns cannot be scaled
