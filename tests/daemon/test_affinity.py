"""What a LoRA was trained on, what it is put on, and the warning that names the reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_daemon import engine_process
from lora_daemon.starter import base_dir
from shared import wire
from shared.affinity import Affinity, Kinship, KinshipOrder
from tests.daemon.house import House

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


async def _check(house: House, lora: Path, base: str, *, thorough: bool = False) -> Affinity:
    ask = wire.CheckAffinity(lora=str(lora), base=base, thorough=thorough)
    return (await house.call(ask)).found


def _lora(folder: Path, name: str, width: int = 64, **metadata: str) -> Path:
    weights = load_file(base_dir("starter") / WEIGHTS)
    tensors = {}
    for leaf in ("to_q", "to_k", "to_v"):
        u, s, v = torch.linalg.svd(weights[f"{ATTENTION}.{leaf}.weight"].float())
        module = f"lora_unet_{ATTENTION.replace('.', '_')}_{leaf}"
        up, down = (u[:, :2] * s[:2]).contiguous(), v[:2, :width].contiguous()
        tensors |= {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata or None)
    return path


def _renamed(lora: Path, name: str, old: str, new: str) -> Path:
    path = lora.with_stem(name)
    save_file({key.replace(old, new): one for key, one in load_file(lora).items()}, path)
    return path


async def test_test_2_of_the_lesson_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starter's three bases: itself, kin, foreign; known by hash, and by the weights alone."""
    asked = []

    async def ask(module: str, order: KinshipOrder, answer: type[Kinship], what: str) -> Kinship:
        """The engine's own functions, without a process for each."""
        from lora_daemon.engine.kinship import alignment, distance

        assert (module, answer) == ("lora_daemon.engine.kinship", Kinship) and what
        asked.append(order)
        if order.lora:
            return alignment(Path(order.lora), Path(order.base))
        return distance(Path(order.base), Path(order.other))

    monkeypatch.setattr(engine_process, "ask", ask)
    house = House(tmp_path / "home")
    await house.domain.start()
    try:
        digest = hashlib.sha256((base_dir("starter") / WEIGHTS).read_bytes()).hexdigest()
        known = _lora(tmp_path, "known", ss_new_sd_model_hash=digest, ss_sd_model_name="x")
        own = await _check(house, known, "starter")
        assert (own.fit, own.how, own.warning) == ("same", "hash", "") and not asked
        kin = await _check(house, known, "starter-kin")
        assert (kin.fit, kin.trained_on, kin.warning) == ("kin", "starter", "")
        assert kin.distance is not None and kin.distance.cosine > 0.99
        assert 0.005 < kin.distance.relative < 0.1
        foreign = await _check(house, known, "starter-foreign")
        assert foreign.fit == "foreign" and "no kin" in foreign.warning
        assert foreign.distance is not None and abs(foreign.distance.cosine) < 0.05
        before = len(asked)
        assert (await _check(house, known, "starter-foreign")) == foreign
        assert len(asked) == before  # it was kept

        stray = _lora(tmp_path, "stray", ss_sd_model_name="animefull")
        here = await _check(house, stray, "starter")
        assert (here.fit, here.how, here.says) == ("kin", "weights", "animefull")
        there = await _check(house, stray, "starter-foreign", thorough=True)
        assert there.fit == "foreign" and "It fits starter" in there.warning
        assert there.alignment["starter"] > 1.5 and there.alignment["starter-foreign"] < 1.1
        named = _lora(tmp_path, "named", ss_sd_model_name="starter.safetensors")
        assert (await _check(house, named, "starter")).how == "name"
        other = _lora(tmp_path, "other", ss_new_sd_model_hash="ab" * 32, ss_sd_model_name="starter")
        assert (await _check(house, other, "starter")).how == "weights"  # another file of that name

        narrow = _lora(tmp_path, "narrow", 48, ss_base_model_version="sdxl_base_v1-0")
        misfit = await _check(house, narrow, "starter")
        assert misfit.fit == "misfit"
        assert "of its 3 modules none are of this base's size" in misfit.warning
        assert "It was made for sdxl_base_v1-0." in misfit.warning
        words = _renamed(stray, "words", "lora_unet_", "lora_te_")
        assert (await _check(house, words, "starter")).warning == ""
        flow = _renamed(stray, "flow", f"lora_unet_{ATTENTION.replace('.', '_')}", "transformer.a")
        assert "of its 3 modules none" in (await _check(house, flow, "starter")).warning
        spec = {"modelspec.prediction_type": "v", "ss_new_sd_model_hash": digest}
        speaks = _lora(tmp_path, "speaks", **spec)
        said = await _check(house, speaks, "starter")
        assert said.fit == "same" and said.warning.endswith(
            "speaks was trained to predict v, and starter predicts noise."
        )
    finally:
        await house.close()
