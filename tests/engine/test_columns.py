"""ZipLoRA's coefficients: the paper's formula, and a file that does exactly what was learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_daemon import pipe
from lora_daemon.engine import columns, lessons, lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.lora_read import raw
from lora_daemon.engine.merge import merge
from lora_daemon.engine.mix import Mix, Site, Strength
from lora_daemon.engine.parts import Kronecker
from lora_daemon.engine.studio import Studio
from shared.errors import Code, LoraError
from shared.lora_orders import MergeOrder, Source
from shared.pictures import PictureSpec
from shared.safetensors_file import read_header, write

BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
DOTTED = {
    BLOCK: "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    CONV: "unet.down_blocks.0.resnets.0.conv1",
}
STRENGTHS = [Strength(0.8), Strength(1.2)]


def lora(base: Base, path: Path, seed: int) -> Path:
    """Two modules, a linear and a convolution, of uneven ranks."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for rank, (name, dotted) in enumerate(DOTTED.items(), 2 + seed):
        high, *wide = base.unet.get_submodule(dotted.removeprefix("unet.")).weight.shape
        ones = (1,) * (len(wide) - 1)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, *wide, generator=draw)
        tensors[f"{name}.lora_up.weight"] = 0.2 * torch.randn(high, rank, *ones, generator=draw)
        tensors[f"{name}.alpha"] = torch.tensor(rank / 4)
    save_file(tensors, path)
    return path


@pytest.fixture
def files(base: Base, tmp_path: Path) -> list[Path]:
    return [lora(base, tmp_path / f"{name}.safetensors", n) for n, name in enumerate(("a", "b"))]


def stacked(base: Base, files: list[Path]) -> Mix:
    return Mix(base, [lora_file.load(file, base).modules for file in files])


def lesson(folder: Path, **more: Any) -> lessons.Lesson:
    spec = PictureSpec(base="tiny", prompt="a cat", sampler="DDIM", steps=2, cfg=2.0, width=64,
                       height=64)  # fmt: skip
    pictures = [
        (lora, PictureSpec(**{**{f: getattr(spec, f) for f in spec.__struct_fields__}, "seed": n}))
        for lora in (0, 1)
        for n in range(2)
    ]
    settings = {"steps": 5, "rate": 0.05, "penalty": 0.1, "seed": 3, **more}
    return lessons.Lesson(STRENGTHS, pictures, folder / "work", folder / "out.safetensors",
                          **settings)  # fmt: skip


def learn(mix: Mix, what: lessons.Lesson) -> int:
    calls = 0
    while lessons.go_on(mix, what, lambda: None) < what.total:
        calls += 1
    return calls


@pytest.mark.parametrize("kind", ["linear", "convolution", "kronecker"])
def test_a_module_adds_the_paper_s_sum(kind: str) -> None:
    """W x + Σ wᵢ sᵢ ΔWᵢ diag(mᵢ) x, by whole matrices in float64; and its gradient by m."""
    draw = torch.Generator().manual_seed(4)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    kernel = (3, 3) if kind == "convolution" else ()
    target: nn.Module = nn.Conv2d(6, 5, 3, 2, 1) if kernel else nn.Linear(6, 5)
    target.double()
    site = Site(target, "unet.x", random(5, 6, *kernel), random(5, 5))
    assert site.down is not None and site.up is not None
    site.slots, site.v = [(0, "IN00")] * 2 + [(1, "IN00")] * 3, random(5)
    deltas = [
        torch.tensordot(site.up[:, rows] * site.v[rows], site.down[rows], dims=1)
        for rows in (slice(0, 2), slice(2, 5))
    ]
    if kind == "kronecker":
        site.others = [Kronecker(random(5, 3), random(1, 2))]
        site.slots, site.v = [*site.slots, (1, "IN00")], random(6)
        deltas = [torch.tensordot(site.up[:, r] * site.v[:5][r], site.down[r], dims=1)
                  for r in (slice(0, 2), slice(2, 5))]  # fmt: skip
        deltas[1] = deltas[1] + site.v[5] * site.others[0].dense()
    m = random(2, 6).requires_grad_()
    x = random(2, 6, 7, 7) if kernel else random(2, 4, 6)
    weight = sum(d * m[n].view(1, 6, *(1 for _ in kernel)) for n, d in enumerate(deltas))
    plain: Any = target
    wanted = plain(x) + (
        F.conv2d(x, weight, None, 2, 1) if kernel else F.linear(x, weight)  # type: ignore[arg-type]
    )
    got = columns.Stacked(site).add(m, x, plain(x))
    assert (got - wanted).norm() < 1e-10 * wanted.norm()
    seen = torch.autograd.grad(wanted.square().sum(), m, retain_graph=True)[0]
    own = torch.autograd.grad(got.square().sum(), m)[0]
    assert (own - seen).norm() < 1e-10 * seen.norm()


def test_overlap_is_of_columns_that_two_change(base: Base, files: list[Path]) -> None:
    mix = stacked(base, files)
    modules = {site.name: columns.Stacked(site) for site in mix.sites}
    m = {name: torch.ones(2, one.down.shape[1]) for name, one in modules.items()}
    assert float(columns.overlap(m, modules)) == 1
    for one in m.values():
        one[0, ::2], one[1, 1::2] = 0, 0
    assert float(columns.overlap(m, modules)) == 0
    alone = stacked(base, files[:1])
    single = {site.name: columns.Stacked(site) for site in alone.sites}
    assert float(columns.overlap({n: one[:1] for n, one in m.items()}, single)) == 0


def test_what_is_learnt_is_better_and_is_in_the_file(
    base: Base, files: list[Path], tmp_path: Path
) -> None:
    mix, what = stacked(base, files), lesson(tmp_path, steps=8, penalty=1.0)
    learn(mix, what)
    assert not what.folder.exists()
    said = read_header(what.out).metadata
    before, after = (json.loads(said[name]) for name in ("before", "after"))
    overlap = float(said["overlap"])
    assert sum(x * x for x in after) + overlap < sum(x * x for x in before) + 1 - 0.1
    found = {name: one.double() for name, one in load_file(what.out).items()}
    assert set(found) == set(DOTTED.values())
    out = tmp_path / "merged.safetensors"
    sources = [Source(path=str(file), weight=one.unet)
               for file, one in zip(files, STRENGTHS, strict=True)]  # fmt: skip
    told = merge(MergeOrder(sources=sources, out=str(out), method="ziplora",
                            columns=str(what.out)))  # fmt: skip
    assert told.error < 1e-6 and [one.rank for one in told.modules] == [2 + 3, 3 + 4]
    made = load_file(out)
    for name, dotted in DOTTED.items():
        wanted = torch.zeros(())
        for file, one, m in zip(files, STRENGTHS, found[dotted], strict=True):
            own = {key: t.double() for key, t in load_file(file).items()}
            down, up = own[f"{name}.lora_down.weight"], own[f"{name}.lora_up.weight"]
            delta = torch.tensordot(up.flatten(1), down, dims=1) * one.unet / 4
            wanted = wanted + delta * m.view(1, -1, *(1 for _ in down.shape[2:]))
        delta = torch.tensordot(
            made[f"{name}.lora_up.weight"].double().flatten(1),
            made[f"{name}.lora_down.weight"].double(), dims=1,
        )  # fmt: skip
        scale = float(made[f"{name}.alpha"]) / len(made[f"{name}.lora_down.weight"])
        assert (delta * scale - wanted).norm() < 1e-6 * wanted.norm()
    origin = json.loads(read_header(out).metadata["lora_tui.made"])
    assert origin["how"] == "ziplora" and origin["learnt after"] == said["after"]


def test_the_penalty_is_heard(base: Base, files: list[Path], tmp_path: Path) -> None:
    mix, what, found = stacked(base, files), lesson(tmp_path), []
    while lessons.go_on(mix, what, lambda: None) < len(what.pictures):
        pass
    learnt, _ = lessons.moments(mix, what)
    for penalty in (0.0, 30.0):
        learner = columns.Learner(mix, STRENGTHS, learnt, 0.05, penalty, 3)
        for _ in range(3):
            learner.step(lambda: None)
        found.append(float(columns.overlap(learner.columns(), learner.modules).detach()))
    assert found[1] < found[0] - 0.1


def test_it_goes_on_where_it_was_left(
    base: Base, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go or a step at a time, with a worker that died and torn files: the same numbers."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = lesson(tmp_path / "whole")
    learn(stacked(base, files), whole)
    monkeypatch.setattr(lessons, "SLICE", 0.0)  # a step each time
    parts = lesson(tmp_path / "parts")
    given_up = iter([False] * 16 + [True])

    def check() -> None:
        if next(given_up, False):
            raise LoraError(Code.CANCELLED, "It was cancelled.")

    done = lessons.go_on(stacked(base, files), parts, lambda: None)
    assert done == 1
    (parts.folder / "way-0.safetensors").write_bytes(b"torn")
    with pytest.raises(LoraError, match="cancelled"):
        while done < parts.total:
            done = lessons.go_on(stacked(base, files), parts, check)
    assert learn(stacked(base, files), parts) > 0
    one, other = (load_file(what.out) for what in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_worker_does_it_order_by_order(base: Base, files: list[Path], tmp_path: Path) -> None:
    told: list[Any] = []
    studio = Studio(torch.device("cpu"), told.append, lambda job: job == "unwanted")
    what = lesson(tmp_path, steps=2)
    order = pipe.Zip(
        job="j", base_path="", pictures=list(what.pictures), folder=str(what.folder),
        loras=[pipe.LoraFile(name=f.stem, path=str(f), weight=1.0) for f in files],
        out=str(what.out), steps=2, rate=0.05, penalty=0.1, seed=3, about={"base": "tiny"},
    )  # fmt: skip
    for done in range(1, len(what.pictures) + 1):
        studio.serve(order, lambda: base)
        assert told[-1] == pipe.Zipped(job="j", done=done, total=6)
    while told[-1].done < 6:
        studio.serve(order, lambda: base)
    assert read_header(what.out).metadata["base"] == "tiny"
    assert not base.unet.get_submodule(DOTTED[CONV].removeprefix("unet."))._forward_hooks
    studio.serve(pipe.Zip(**{f: getattr(order, f) for f in order.__struct_fields__}
                          | {"job": "unwanted"}), lambda: base)  # fmt: skip
    assert told[-1].failure.code == Code.CANCELLED


def test_coefficients_of_other_files_are_refused(files: list[Path], tmp_path: Path) -> None:
    write(tmp_path / "c.safetensors", {DOTTED[BLOCK]: raw(torch.ones(2, 7))}, {})
    sources = [Source(path=str(file)) for file in files]
    order = MergeOrder(sources=sources, out=str(tmp_path / "o.safetensors"), method="ziplora",
                       columns=str(tmp_path / "c.safetensors"))  # fmt: skip
    with pytest.raises(LoraError, match="does not fit"):
        merge(order)
