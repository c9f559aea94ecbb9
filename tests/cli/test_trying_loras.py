"""LoRAs tried on the starter and held against bases, from the command line to the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_daemon.starter import base_dir
from tests.cli.command_line import CommandLine

ATTENTION = "up_blocks.1.attentions.1.transformer_blocks.0.attn2"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """One LoRA, and one that undoes half of it."""
    weights = load_file(base_dir("starter") / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {}
    for leaf in ("to_k", "to_v"):
        u, s, v = torch.linalg.svd(weights[f"{ATTENTION}.{leaf}.weight"].float())
        module = f"lora_unet_{ATTENTION.replace('.', '_')}_{leaf}"
        tensors[f"{module}.lora_up.weight"] = 0.3 * (u[:, :8] * s[:8]).contiguous()
        tensors[f"{module}.lora_down.weight"] = v[:8].contiguous()
    for name, sign in (("ink", 1.0), ("pencil", -0.5)):
        signed = {k: one * sign if ".lora_up" in k else one for k, one in tensors.items()}
        save_file(signed, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"{name}.safetensors") for name in ("ink", "pencil")]


def test_from_the_first_word_to_what_is_known_after(cli: CommandLine, files: list[str]) -> None:
    _, error = cli.refused("lora", "conflict", *files, "--probe")
    assert "say which with --base" in error["message"]
    fit = cli.data("lora", "affinity", files[0], "--base", "starter")
    assert (fit["fit"], fit["how"]) == ("kin", "weights") and not fit["warning"]
    trying = ("--losses", "1", "--base", "starter", "--no-blocks", "--prompt", "a red house")
    found = cli.data("lora", "conflict", *files, *trying)
    assert found["samples"] == 4 and found["loras"] == ["ink", "pencil"]
    assert found["survival"][0] == pytest.approx(0.5, abs=0.1)  # as their weights have it
    assert found["survival"][1] < -0.5 and "nothing of its effect" in found["sentence"]
    assert len(found["losses"]) == 2 and found["seen"] == 1
    assert "Beside pencil, ink " in found["sentence"]
    _, error = cli.refused("lora", "conflict", *files, "--losses", "0", "--base", "starter")
    assert "1 to 64 pictures" in error["message"]
    after = cli.data("lora", "conflict", *files, "--base", "starter")
    assert after["measured"] and after["whole"]["overlap"][0][1] == pytest.approx(-0.5, abs=1e-3)
    cli.ok("mix", "set", f"<lora:{files[0]}:0.8:start=5:stop=15>", "--base", "starter")
    shown = cli.ok("mix", "show")
    assert "0.25-0.75" in shown
    _, error = cli.refused("mix", "remedy")
    assert "two LoRAs that count" in error["message"]
