"""Where LoRAs fight: low-rank algebra against the dense formula, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_daemon.engine.conflict import compare
from lora_daemon.engine.overlap import Stack, overlaps
from shared import regions
from shared.conflicts import Compared, Conflict, ConflictOrder, Place
from shared.errors import Code, LoraError
from shared.pictures import LoraUse

KEYS = "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SHAPES = {KEYS: (24, 40), CONV: (16, 12, 3, 3), TEXT: (40, 10)}


def _lora(path: Path, seed: int, rank: int = 4, sign: float = 1.0, names: Any = SHAPES) -> Path:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in names:
        high, *wide = SHAPES[name]
        ones = [1 for _ in wide[1:]]
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *wide, generator=draw)
        tensors[f"{name}.lora_up.weight"] = sign * torch.randn(high, rank, *ones, generator=draw)
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2)
    save_file(tensors, path)
    return path


def _compare(*loras: tuple[Path, float] | LoraUse, **more: Any) -> Conflict:
    uses = [
        one if isinstance(one, LoraUse) else LoraUse(lora=str(one[0]), weight=one[1])
        for one in loras
    ]
    order = [Compared(path=use.lora, use=use) for use in uses]
    return compare(ConflictOrder(loras=order, modules=True, **more))


def _pair(place: Place) -> tuple[float, float]:
    """What each does to the other."""
    return place.overlap[0][1], place.overlap[1][0]


@dataclass(frozen=True)
class Share:
    """What one LoRA adds to a module."""

    lora: int
    factor: float
    up: Tensor  # (out, r)
    down: Tensor  # (r, in)

    def dense(self) -> Tensor:
        return self.factor * self.up.double() @ self.down.double()


def _random(seed: int, high: int, wide: int, rank: int, factor: float, number: int) -> Share:
    draw = torch.Generator().manual_seed(seed)
    up, down = torch.randn(high, rank, generator=draw), torch.randn(rank, wide, generator=draw)
    return Share(number, factor, up, down)


def _stack(*modules: list[Share]) -> Stack:
    """Modules of one form."""
    first = modules[0]
    return Stack(
        loras=[one.lora for one in first],
        ranks=[len(one.down) for one in first],
        factors=torch.tensor([[one.factor for one in own] for own in modules]).double(),
        up=torch.stack([torch.cat([one.up for one in own], 1) for own in modules]),
        down=torch.stack([torch.cat([one.down for one in own]) for own in modules]),
    )


def test_it_is_the_dense_formula() -> None:
    """Three LoRAs of different ranks in two modules, one at a negative weight; the fourth is not in
    them. One of the modules has a matrix of noughts, as an untrained LoRA has."""
    several = [
        [_random(seed, 30, 50, 6, 0.7, 0), _random(seed + 1, 30, 50, 3, -1.4, 1),
         _random(seed + 2, 30, 50, 8, 0.2, 3)]
        for seed in (1, 4)
    ]  # fmt: skip
    several[1][1].down.zero_()
    inners, toucheds = overlaps(_stack(*several), 4)
    for shares, inner, touched in zip(several, inners, toucheds, strict=True):
        assert not inner[2].any() and not touched[:, 2].any()
        for one in shares:
            for other in shares:
                a, b = one.dense(), other.dense()
                wanted = torch.trace(a.t() @ b)
                off = abs(inner[one.lora, other.lora] - wanted)
                assert off <= 1e-6 * a.norm() * b.norm()
                if one is not other:
                    energy, chance = a.norm() ** 2, len(other.down) / 50
                    seen = (
                        a @ torch.linalg.pinv(other.down.double()) @ other.down.double()
                    ).norm() ** 2
                    right = max(0.0, float((seen - chance * energy) / (1 - chance)))
                    assert touched[one.lora, other.lora] == pytest.approx(right, rel=1e-4, abs=1e-3)


def test_dependent_rows_are_one_direction() -> None:
    """A matrix whose rows repeat reads no more than without the repetition."""
    one = _random(1, 30, 50, 4, 1.0, 0)
    other = _random(2, 30, 50, 4, 1.0, 1)
    mixed = torch.cat([one.down[:1] + other.down[:1], other.down[1:]])
    plain = Share(1, 1.0, other.up, mixed)
    doubled = Share(1, 1.0, torch.cat([other.up, other.up], 1), torch.cat([mixed, mixed]))
    once, twice = (overlaps(_stack([one, b]), 2)[1][0, 0, 1] for b in (plain, doubled))
    energy = overlaps(_stack([one]), 2)[0][0, 0, 0]

    def plainly(kept: Tensor, rank: int) -> float:
        """Chance put back: it goes by the number of rows."""
        return float(kept / energy) * (1 - rank / 50) + rank / 50

    assert plainly(once, 4) == pytest.approx(plainly(twice, 8), abs=1e-3)


def test_modules_of_one_form_are_read_together_and_told_apart(tmp_path: Path) -> None:
    """Beside others or alone, in half precision too: a module's figures are its own."""
    names = [f"{KEYS[:-4]}{role}" for role in ("to_k", "to_v")] + [f"{KEYS[:-1]}q"]
    draw = torch.Generator().manual_seed(1)
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    several = [
        {
            f"{name}.{side}.weight": torch.randn(size, generator=draw).half()
            for name in names
            for side, size in (("lora_down", (4, 40)), ("lora_up", (24, 4)))
        }
        for _ in files
    ]
    for file, tensors in zip(files, several, strict=True):
        save_file(tensors, file)
    together = _compare((files[0], 1.0), (files[1], 0.5)).modules
    assert [one.module.rpartition(".")[2] for one in together] == ["to_k", "to_q", "to_v"]
    for place in together:
        deltas = []
        for weight, tensors in zip((1.0, 0.5), several, strict=True):
            name = f"{KEYS[:-4]}{place.module.rpartition('.')[2]}"
            up, down = (tensors[f"{name}.lora_{side}.weight"].double() for side in ("up", "down"))
            deltas.append(weight * up @ down)
        one, other = deltas
        assert place.energy == pytest.approx([float(d.square().sum()) for d in deltas], rel=1e-6)
        wanted = float((one * other).sum() / one.square().sum())
        assert place.overlap[0][1] == pytest.approx(wanted, abs=1e-6)


def test_itself_its_negative_and_a_stranger(tmp_path: Path) -> None:
    one = _lora(tmp_path / "one.safetensors", 1)
    against = _lora(tmp_path / "against.safetensors", 1, sign=-1)
    stranger = _lora(tmp_path / "stranger.safetensors", 2)
    same = _compare((one, 0.8), (one, 0.8))
    assert _pair(same.whole) == pytest.approx((1, 1)) and same.loras == ["one (1)", "one (2)"]
    assert same.whole.touched[0][1] == pytest.approx(1, abs=1e-6)
    assert "change much the same in the same way" in same.sentence
    undone = _compare((one, 0.8), (against, 0.8))
    assert _pair(undone.whole) == pytest.approx((-1, -1))
    assert undone.whole.keeps(0) == pytest.approx(0) and "both lose" in undone.sentence
    assert _pair(_compare((one, 0.8), (one, -0.8)).whole) == pytest.approx((-1, -1))
    apart = _compare((one, 0.8), (stranger, 0.8))
    assert max(map(abs, _pair(apart.whole))) < 0.05
    assert all(cell.touched[0][1] < 0.3 for cell in apart.cells)


def test_weights_count_and_the_weaker_one_loses(tmp_path: Path) -> None:
    ink = _lora(tmp_path / "ink.safetensors", 1)
    pencil = _lora(tmp_path / "pencil.safetensors", 1, sign=-1, names=[KEYS])
    told = _compare((ink, 1.0), (pencil, 0.5))
    keys = next(cell for cell in told.cells if cell.kind == "cross k")
    assert keys.block == "OUT05" and keys.met == 1
    assert _pair(keys) == pytest.approx((-0.5, -2))  # half of ink; pencil twice over
    assert told.sentence.startswith(
        "They pull the same keys in up.1 (OUT05) in opposite ways; pencil loses (all of it there; "
    )
    energy = told.whole.energy[0]
    assert told.whole.overlap[0][1] == pytest.approx(-0.5 * keys.energy[0] / energy)
    assert [one.module for one in told.modules if one.met] == [
        "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k"
    ]
    assert told.whole.met == 1 and sum(map(len, (told.blocks, told.cells))) == 6
    half = _compare(
        LoraUse(lora=str(ink), weight=2.0, text_weight=0.0), LoraUse(lora=str(ink), weight=1.0)
    )
    text = next(block for block in half.blocks if block.block == "TE1")
    assert _pair(text) == (0, 0) and text.energy[0] == 0
    assert _pair(half.blocks[1]) == pytest.approx((0.5, 2))


def test_block_weights_need_a_base_and_follow_it(tmp_path: Path) -> None:
    one = _lora(tmp_path / "one.safetensors", 1)
    out = LoraUse(lora=str(one), blocks=[1.0] * 12 + [0.5] * 5)
    with pytest.raises(LoraError, match="need a base") as caught:
        _compare(out, (one, 1.0))
    assert caught.value.code == Code.BAD_REQUEST
    config = tmp_path / "base" / "unet" / "config.json"
    config.parent.mkdir(parents=True)
    down = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    up = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    config.write_bytes(msgspec.json.encode(
        {"layers_per_block": 2, "down_block_types": down, "up_block_types": up}
    ))  # fmt: skip
    told = _compare(out, (one, 1.0), base=str(tmp_path / "base"))
    place = {block.block: block for block in told.blocks}
    assert _pair(place["OUT05"]) == pytest.approx((1, 1))
    low = LoraUse(lora=str(one), blocks=[1.0] * 8 + [0.5] * 9)
    place = {
        block.block: block
        for block in _compare(low, (one, 1.0), base=str(tmp_path / "base")).blocks
    }
    assert _pair(place["OUT05"]) == pytest.approx((2, 0.5))
    assert _pair(place["TE1"]) == pytest.approx((1, 1))


def test_every_kind_of_adapter_is_compared_or_named(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    loha = {"hada_w1_a": random(24, 2), "hada_w1_b": random(2, 40),
            "hada_w2_a": random(24, 2), "hada_w2_b": random(2, 40)}  # fmt: skip
    lokr = {"lokr_w1": random(4, 4), "lokr_w2": random(6, 10)}
    full = {"diff": random(24, 40)}
    deltas = [
        (loha["hada_w1_a"] @ loha["hada_w1_b"]) * (loha["hada_w2_a"] @ loha["hada_w2_b"]),
        torch.kron(lokr["lokr_w1"], lokr["lokr_w2"]),
        full["diff"],
    ]
    files = []
    for name, tensors in (("loha", loha), ("lokr", lokr), ("full", full)):
        files.append(tmp_path / f"{name}.safetensors")
        save_file({f"{KEYS}.{role}": one for role, one in tensors.items()}, files[-1])
    told = _compare(*((file, 1.0) for file in files))
    for i, one in enumerate(deltas):
        for j, other in enumerate(deltas):
            wanted = float((one.double() * other.double()).sum() / one.double().norm() ** 2)
            assert told.whole.overlap[i][j] == pytest.approx(wanted, abs=1e-5)
    dora = tmp_path / "dora.safetensors"
    tensors = {"lora_down.weight": random(2, 40), "lora_up.weight": random(24, 2)}
    whole = {f"{KEYS}.{role}": one for role, one in tensors.items()}
    save_file(whole | {f"{KEYS}.dora_scale": random(24, 1)}, dora)
    with pytest.raises(LoraError, match=r"dora.safetensors cannot be compared: all of it is DoRA"):
        _compare((dora, 1.0), (files[0], 1.0))
    extra = {f"{TEXT}.diff": random(40, 10), "lora_unet_strange.diff": random(3, 3)}
    save_file(whole | {f"{KEYS}.dora_scale": random(24, 1)} | extra, dora)
    told = _compare((dora, 1.0), (files[0], 1.0))
    assert told.notes == [
        "dora: 1 DoRA modules left out: what they add depends on the base.",
        "dora: lora_unet_strange left out: of no module that is known.",
    ]
    assert told.sentence == "They change no module in common: they cannot fight."


def test_the_dialects_meet(tmp_path: Path) -> None:
    """The same numbers, named by kohya and by PEFT."""
    one = _lora(tmp_path / "one.safetensors", 1, names=[KEYS])
    draw = torch.Generator().manual_seed(1)
    name = "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(4, 40, generator=draw),
        f"{name}.lora_B.weight": torch.randn(24, 4, generator=draw),
    }
    save_file(tensors, tmp_path / "peft.safetensors")
    told = _compare((one, 1.0), (tmp_path / "peft.safetensors", 1.0))
    assert _pair(told.whole) == pytest.approx((2, 0.5))  # kohya's alpha is half its rank


def test_bad_files_are_said_by_name(tmp_path: Path) -> None:
    one = _lora(tmp_path / "one.safetensors", 1)
    other = tmp_path / "other.safetensors"
    wide = {
        f"{KEYS}.lora_down.weight": torch.ones(2, 64),
        f"{KEYS}.lora_up.weight": torch.ones(24, 2),
    }
    save_file(wide, other)
    with pytest.raises(LoraError, match=r"other.safetensors and .*one.* are for different bases"):
        _compare((one, 1.0), (other, 1.0))
    broken = {
        f"{KEYS}.lora_down.weight": torch.ones(2, 40),
        f"{KEYS}.lora_up.weight": torch.full((24, 2), float("nan")),
    }
    save_file(broken, other)
    order = ConflictOrder(loras=[
        Compared(path=str(file), use=LoraUse(lora=str(file))) for file in (one, other)
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lora_daemon.engine.conflict"],
        input=msgspec.json.encode(order), capture_output=True, check=True, timeout=240,
    )  # fmt: skip
    said = msgspec.json.decode(done.stdout)
    assert "other.safetensors" in said["message"] and "not finite" in said["message"]


def test_a_lora_without_weight_is_said(tmp_path: Path) -> None:
    one, other = (_lora(tmp_path / f"{n}.safetensors", n) for n in (1, 2))
    told = _compare((one, 0.0), (other, 1.0))
    assert told.notes == ["1 does nothing at its weight."]
    assert _pair(told.whole) == (0, 0) and "hardly meet" in told.sentence


def test_guidance_is_not_in_files(tmp_path: Path) -> None:
    one, other = (_lora(tmp_path / f"{n}.safetensors", n) for n in (1, 2))
    told = _compare(LoraUse(lora=str(one), guidance=2.5), (other, 1.0))
    assert told.notes[0].startswith("Files know no guidance: 1 compared by weight alone.")
    assert told.whole == _compare((one, 1.0), (other, 1.0)).whole


def test_a_region_is_said_and_leaves_words_alone(tmp_path: Path) -> None:
    one, other = (_lora(tmp_path / f"{n}.safetensors", n) for n in (1, 2))
    told = _compare(LoraUse(lora=str(one), weight=1.0, region=regions.read("left")), (other, 1.0))
    assert "1 compared as if in the whole picture" in told.notes[0]
    (text,) = [place for place in told.modules if place.block == "TE1"]
    assert text.energy[0] == 0 < text.energy[1] and text.overlap[1][0] == 0
