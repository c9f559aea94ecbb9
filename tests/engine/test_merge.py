"""Merging: exact where it says exact, with the error that it states, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_daemon.engine import low_rank as algebra
from lora_daemon.engine.merge import merge
from shared.errors import Code, LoraError
from shared.lora_info import inspect
from shared.lora_orders import Merged, MergeOrder, Source

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SHAPES = {LINEAR: (24, 20), CONV: (16, 12, 3, 3), TEXT: (40, 10)}


def _lora(path: Path, seed: int, rank: int, *, dtype: torch.dtype = torch.float32,
          names: Any = SHAPES, metadata: dict[str, str] | None = None) -> Path:  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, name in enumerate(names):
        high, wide, *kernel = SHAPES[name]
        r = rank + number
        ones = [1 for _ in kernel]
        down = torch.randn(r, wide, *kernel, generator=draw)
        tensors[f"{name}.lora_down.weight"] = down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = torch.randn(high, r, *ones, generator=draw).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(r / 2, dtype=dtype)
    save_file(tensors, path, metadata or {})
    return path


def _deltas(path: Path) -> dict[str, Tensor]:
    """ΔW of every module, from the file alone, in float64."""
    tensors = {name: one.double() for name, one in load_file(path).items()}
    deltas = {}
    for name in {key.split(".")[0] for key in tensors}:
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        scale = tensors[f"{name}.alpha"] / len(down)
        deltas[name] = scale * up.flatten(1) @ down.flatten(1)
    return deltas


def _merge(tmp_path: Path, *sources: tuple[Path, float], **more: Any) -> tuple[Path, Merged]:
    out = tmp_path / "out.safetensors"
    text = more.pop("text_weight", None)
    uses = [Source(path=str(path), weight=w, text_weight=text) for path, w in sources]
    return out, merge(MergeOrder(sources=uses, out=str(out), **more))


def _off(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def test_an_exact_merge_is_the_sum(tmp_path: Path) -> None:
    """Mixed ranks and alphas, a negative weight, one above 1, modules that only one of them has."""
    a = _lora(tmp_path / "a.safetensors", 1, 4)
    b = _lora(tmp_path / "b.safetensors", 2, 2, names=[LINEAR, TEXT])
    out, merged = _merge(tmp_path, (a, 1.3), (b, -0.7))
    one, other, got = _deltas(a), _deltas(b), _deltas(out)
    assert got.keys() == SHAPES.keys()
    for name, delta in got.items():
        assert _off(delta, 1.3 * one[name] - 0.7 * other.get(name, torch.zeros(()))) < 1e-6
    assert {m.name: m.rank for m in merged.modules} == {LINEAR: 4 + 2, CONV: 5, TEXT: 6 + 3}
    assert merged.error < 1e-6 and merged.size == out.stat().st_size


def test_the_text_encoder_has_its_own_weight(tmp_path: Path) -> None:
    a = _lora(tmp_path / "a.safetensors", 1, 4)
    out, _ = _merge(tmp_path, (a, 0.5), text_weight=0.0)
    assert _deltas(out)[TEXT].norm() == 0
    assert _off(_deltas(out)[CONV], 0.5 * _deltas(a)[CONV]) < 1e-6


@pytest.mark.parametrize("method", ["svd", "ties", "dare"])
def test_the_stated_error_is_the_true_one(method: Any, tmp_path: Path) -> None:
    a, b = _lora(tmp_path / "a.safetensors", 1, 6), _lora(tmp_path / "b.safetensors", 2, 6)
    out, merged = _merge(tmp_path, (a, 1.0), (b, 0.5), method=method, rank=4, density=0.4)
    full, _ = _merge(tmp_path / "full", (a, 1.0), (b, 0.5), method=method, rank=500, density=0.4)
    wanted, got = _deltas(full), _deltas(out)
    for module in merged.modules:
        assert module.rank == 4 and 0 < module.error < 1
        assert _off(got[module.name], wanted[module.name]) == pytest.approx(module.error, rel=1e-3)
    total = sum(float((got[n] - wanted[n]).norm()) ** 2 for n in got)
    whole = sum(float(wanted[n].norm()) ** 2 for n in got)
    assert merged.error == pytest.approx((total / whole) ** 0.5, rel=1e-3)


def test_svd_is_the_best_approximation_and_keeps_the_error_asked_for(tmp_path: Path) -> None:
    a, b = _lora(tmp_path / "a.safetensors", 1, 6), _lora(tmp_path / "b.safetensors", 2, 6)
    _, merged = _merge(tmp_path, (a, 1.0), (b, 1.0), method="svd", rank=5)
    one, other = _deltas(a), _deltas(b)
    for module in merged.modules:
        s = torch.linalg.svdvals(one[module.name] + other[module.name])
        assert module.error == pytest.approx(float(s[5:].norm() / s.norm()), rel=1e-4)
    _, merged = _merge(tmp_path, (a, 1.0), (b, 1.0), method="svd", error=0.3)
    for module in merged.modules:
        s = torch.linalg.svdvals(one[module.name] + other[module.name])
        assert module.error <= 0.3 + 1e-6
        assert float(s[module.rank - 1 :].norm() / s.norm()) > 0.3  # one less would not do
    _, merged = _merge(tmp_path, (a, 1.0), (b, 1.0), method="svd", rank=64)
    assert merged.error < 1e-6  # a rank that is enough loses nothing


def test_ties_and_dare_work_on_the_true_change_of_the_weights() -> None:
    a = torch.tensor([[3.0, -2.0, 0.1], [1.0, 0.0, -4.0]])
    b = torch.tensor([[1.0, 5.0, 0.2], [-3.0, 0.1, -1.0]])
    merged = algebra.ties([a, b], 2 / 3)  # four of six stay of each
    # a keeps 3 −2 1 −4, b keeps 5 1 −3 −1; where they disagree the larger sum wins
    assert merged.tolist() == [[2.0, 5.0, 0.0], [-3.0, 0.0, -2.5]]
    assert torch.equal(algebra.ties([a], 1.0), a)
    large = torch.randn(200, 200, generator=torch.Generator().manual_seed(1)) + 2
    draw = torch.Generator().manual_seed(0)
    dropped = algebra.dare([large], 0.25, draw)
    kept = dropped != 0
    assert 0.23 < float(kept.float().mean()) < 0.27
    assert torch.allclose(dropped[kept], large[kept] * 4)
    assert torch.equal(algebra.dare([large], 1.0, draw), large)


def test_dare_draws_from_its_seed_alone(tmp_path: Path) -> None:
    a = _lora(tmp_path / "a.safetensors", 1, 6)
    files = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(files))
        out, _ = _merge(tmp_path, (a, 1.0), method="dare", seed=seed)
        files.append(out.read_bytes())
    assert files[0] == files[1] != files[2]


def test_random_projection_finds_nearly_the_best(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    delta = torch.randn(200, 20, generator=draw) @ torch.randn(20, 150, generator=draw)
    delta += 0.1 * torch.randn(200, 150, generator=draw)
    up, down = algebra.factored(delta, 10, 0.0, draw)
    best = torch.linalg.svdvals(delta)[10:].norm()
    assert float((delta - up @ down).norm()) < 1.001 * float(best)


def test_every_kind_that_needs_no_base_is_merged(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    loha = {f"hada_w{s}": torch.randn(*shape, generator=draw) for s, shape in
            (("1_a", (24, 2)), ("1_b", (2, 20)), ("2_a", (24, 2)), ("2_b", (2, 20)))}  # fmt: skip
    lokr = {
        "lokr_w1": torch.randn(4, 4, generator=draw),
        "lokr_w2": torch.randn(6, 5, generator=draw),
    }
    save_file({f"{LINEAR}.{k}": v for k, v in loha.items()}, tmp_path / "loha.safetensors")
    save_file({f"{LINEAR}.{k}": v for k, v in lokr.items()}, tmp_path / "lokr.safetensors")
    one = (loha["hada_w1_a"] @ loha["hada_w1_b"]) * (loha["hada_w2_a"] @ loha["hada_w2_b"])
    other = torch.kron(lokr["lokr_w1"], lokr["lokr_w2"])
    out, merged = _merge(
        tmp_path, (tmp_path / "loha.safetensors", 0.5), (tmp_path / "lokr.safetensors", 2.0)
    )
    assert _off(_deltas(out)[LINEAR], (0.5 * one + 2 * other).double()) < 1e-5
    assert merged.modules[0].rank == 20  # never more than the matrix has


def test_dialects_meet_and_two_ways_of_naming_never_do(tmp_path: Path) -> None:
    a = _lora(tmp_path / "a.safetensors", 1, 4, names=[LINEAR])
    path = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = load_file(a)
    save_file(
        {
            f"{path}.lora_A.weight": tensors[f"{LINEAR}.lora_down.weight"],
            f"{path}.lora_B.weight": tensors[f"{LINEAR}.lora_up.weight"] * 0.5,
        },
        tmp_path / "b.safetensors",
    )
    out, _ = _merge(tmp_path, (a, 1.0), (tmp_path / "b.safetensors", -1.0), (a, 0.25))
    assert _off(_deltas(out)[LINEAR], 0.25 * _deltas(a)[LINEAR]) < 1e-5
    original = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    save_file(
        {key.replace(LINEAR, original): one for key, one in tensors.items()},
        tmp_path / "c.safetensors",
    )
    out, _ = _merge(tmp_path, (tmp_path / "c.safetensors", 1.0))
    assert _deltas(out).keys() == {original}
    out, _ = _merge(tmp_path, (tmp_path / "c.safetensors", 1.0), (a, 1.0))
    assert _off(_deltas(out)[LINEAR], 2 * _deltas(a)[LINEAR]) < 1e-5
    assert len(_deltas(out)) == 1


@pytest.mark.parametrize(
    ("dtypes", "asked", "kept"),
    [
        (("float16", "float16"), "", "F16"), (("float16", "bfloat16"), "", "F32"),
        (("bfloat16", "bfloat16"), "", "BF16"), (("float32", "float16"), "", "F32"),
        (("float32", "float32"), "fp16", "F16"),
    ],
)  # fmt: skip
def test_the_widest_number_format_is_kept(
    dtypes: tuple[str, str], asked: Any, kept: str, tmp_path: Path
) -> None:
    files = [_lora(tmp_path / f"{n}.safetensors", n, 4, dtype=getattr(torch, one))
             for n, one in enumerate(dtypes)]  # fmt: skip
    out, merged = _merge(tmp_path, *((file, 1.0) for file in files), precision=asked)
    assert inspect(out).dtype == kept
    assert merged.error < {"F32": 1e-6, "F16": 1e-3, "BF16": 1e-2}[kept]


def test_metadata_is_kept_and_says_where_it_comes_from(tmp_path: Path) -> None:
    common = {
        "ss_base_model_version": "sd_v1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
    }
    a = _lora(tmp_path / "a.safetensors", 1, 4, metadata=common | {"ss_steps": "7", "own": "x"})
    b = _lora(tmp_path / "b.safetensors", 2, 4, metadata=common | {"ss_steps": "9"})
    out, _ = _merge(tmp_path, (a, 0.5), (b, 1.0), method="svd", rank=3)
    metadata = inspect(out).metadata
    assert common.items() <= metadata.items() and "ss_steps" not in metadata
    assert metadata["ss_output_name"] == "out" and metadata["ss_network_dim"] == "3"
    made = json.loads(metadata["lora_tui.made"])
    assert (made["how"], made["rank"]) == ("svd", 3)
    assert [(one["name"], one["weight"]) for one in made["from"]] == [
        ("a.safetensors", 0.5), ("b.safetensors", 1.0)
    ]  # fmt: skip
    assert made["from"][0]["sha256"] == hashlib.sha256(a.read_bytes()).hexdigest()
    assert metadata["sshs_model_hash"] == inspect(out).model_hash
    (tmp_path / "again").mkdir()
    again, _ = _merge(tmp_path / "again", (out, 1.0), method="svd", rank=2)
    nested = json.loads(inspect(again).metadata["lora_tui.made"])["from"][0]["made"]
    assert json.loads(nested) == made
    with safe_open(again, "pt") as file:
        assert len(file.keys()) == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("dora", "is a DoRA"), ("bias", "changes biases"), ("wide", "for different bases"),
        ("nan", "not finite"), ("oft", "is an OFT"), ("none", "There is no file"),
        ("pickle", "is a pickle"), ("zero", "Nothing is left"), ("torn", "cut short"),
        ("overflow", "does not fit F16"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_name(change: str, words: str, tmp_path: Path) -> None:
    a, b = _lora(tmp_path / "a.safetensors", 1, 4), _lora(tmp_path / "b.safetensors", 2, 4)
    tensors: dict[str, Tensor] = load_file(b)
    weight, more = 1.0, {}
    match change:
        case "dora":
            tensors[f"{LINEAR}.dora_scale"] = torch.ones(24, 1)
        case "bias":
            tensors = {f"{LINEAR}.diff": torch.ones(24, 20), f"{LINEAR}.diff_b": torch.ones(24)}
        case "wide":
            tensors[f"{LINEAR}.lora_down.weight"] = torch.ones(4, 21)
        case "nan":
            tensors[f"{LINEAR}.lora_down.weight"][0, 0] = float("inf")
        case "oft":
            tensors[f"{LINEAR}.oft_blocks"] = torch.ones(4, 6, 6)
        case "overflow":
            tensors[f"{LINEAR}.lora_down.weight"] *= 1e6
            more = {"precision": "fp16"}
    save_file(tensors, b)
    match change:
        case "none":
            b.unlink()
        case "pickle":
            b.write_bytes(b"\x80\x04junk")
        case "torn":
            b.write_bytes(b.read_bytes()[:-3])
        case "zero":
            a, weight = b, -1.0
    with pytest.raises(LoraError) as refused:
        _merge(tmp_path, (a, 1.0), (b, weight), **more)
    assert words in refused.value.message
    assert not (tmp_path / "out.safetensors").exists()
    if change not in ("zero", "overflow", "none"):
        assert refused.value.code is Code.INVALID_FILE and "b.safetensors" in refused.value.message


def test_the_process_tells_how_far_it_is_and_what_went_wrong(tmp_path: Path) -> None:
    a = _lora(tmp_path / "a.safetensors", 1, 4)
    order = MergeOrder(sources=[Source(path=str(a))], out=f"{tmp_path}/o.safetensors")
    told = _process(order)
    assert [one["type"] for one in told] == ["advance"] * 3 + ["merged"]
    assert (told[2]["done"], told[2]["total"]) == (3, 3)
    told = _process(msgspec.structs.replace(order, sources=[Source(path=f"{tmp_path}/none")]))
    assert told[-1]["code"] == "not_found" and "There is no file" in told[-1]["message"]


def _process(order: MergeOrder) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "lora_daemon.engine.merge"],
        input=msgspec.json.encode(order), capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]
