"""Mixing: every kind of adapter against the dense formula in float64, and weights that are live."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoHaConfig, LoKrConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_daemon import pipe
from lora_daemon.engine import lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.mix import Mix, Placed, Strength, applied
from lora_daemon.engine.parts import Kronecker, LowRank, fitted, low_rank
from lora_daemon.engine.studio import Studio
from shared import blocks
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"  # 128 → 32
CONV = "down_blocks.0.resnets.0.conv1"  # 3 × 3
POINT = "down_blocks.0.attentions.0.proj_in"  # 1 × 1
STRIDED = "down_blocks.0.downsamplers.0.conv"
WHERE = [LINEAR, CONV, POINT, STRIDED]
EXACT = 1e-5  # relative, in fp32

Make = Callable[[torch.Generator, tuple[int, ...]], tuple[dict[str, Tensor], Tensor]]


def _random(seed: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seed)


def _lora(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    down, up = _random(seed, 3, wide, *kernel), _random(seed, high, 3, *(1 for _ in kernel))
    delta = 2 / 3 * torch.einsum("or,ri...->oi...", up.flatten(1).double(), down.double())
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0)}
    return tensors, delta


def _locon(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    ones = [1 for _ in kernel]
    down, mid = _random(seed, 3, wide, *ones), _random(seed, 3, 3, *kernel)
    up = _random(seed, high, 3, *ones)
    delta = torch.einsum(
        "op,pq...,qi->oi...", up.flatten(1).double(), mid.double(), down.flatten(1).double()
    )
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}
    return tensors | {"alpha": torch.tensor(1.5)}, delta / 2


def _loha(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide = shape[0], math.prod(shape[1:])
    w = [_random(seed, *s) for s in ((high, 2), (2, wide), (high, 2), (2, wide))]
    a, b, c, d = (one.double() for one in w)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = dict(zip(names, w, strict=True)) | {"alpha": torch.tensor(1.0)}
    return tensors, ((a @ b) * (c @ d)).reshape(shape) / 2


def _loha_wide(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """So high a rank that r² is more than the matrix has."""
    high, wide = shape[0], math.prod(shape[1:])
    w = [_random(seed, *s) for s in ((high, 9), (9, wide), (high, 9), (9, wide))]
    a, b, c, d = (one.double() for one in w)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    return dict(zip(names, w, strict=True)), ((a @ b) * (c @ d)).reshape(shape)


def _loha_tucker(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    tensors, product = {}, torch.ones((), dtype=torch.float64)
    for side in ("1", "2"):
        core = _random(seed, 2, 2, *kernel)
        a, b = _random(seed, 2, high), _random(seed, 2, wide)
        tensors |= {f"hada_t{side}": core, f"hada_w{side}_a": a, f"hada_w{side}_b": b}
        product = product * torch.einsum(
            "ij...,jr,ip->pr...", core.double(), b.double(), a.double()
        )
    return tensors | {"alpha": torch.tensor(3.0)}, product * 1.5


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """By its definition, entry by entry of the left factor."""
    rows = [torch.cat([entry * right for entry in row], dim=1) for row in left]
    return torch.cat(rows, dim=0)


def _lokr(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    w1, a = _random(seed, 4, 2), _random(seed, high // 4, 3)
    b = _random(seed, 3, wide // 2 * math.prod(kernel))
    right = (a.double() @ b.double()).reshape(high // 4, wide // 2, *kernel)
    tensors = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    return tensors, _kron(w1.double(), right) / 3


def _lokr_both(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    c, d = _random(seed, 8, 3), _random(seed, 3, 8)
    a, b = _random(seed, high // 8, 3), _random(seed, 3, wide // 8 * math.prod(kernel))
    right = (a.double() @ b.double()).reshape(high // 8, wide // 8, *kernel)
    tensors = {"lokr_w1_a": c, "lokr_w1_b": d, "lokr_w2_a": a, "lokr_w2_b": b}
    tensors["alpha"] = torch.tensor(6.0)
    return tensors, 2 * _kron(c.double() @ d.double(), right)


def _lokr_full(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """Two whole matrices: scale 1, whatever the alpha says."""
    high, wide, *kernel = shape
    w1, w2 = _random(seed, 8, 4), _random(seed, high // 8, wide // 4, *kernel)
    tensors = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1e10)}
    return tensors, _kron(w1.double(), w2.double())


def _lokr_tucker(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    high, wide, *kernel = shape
    w1, core = _random(seed, 2, 2), _random(seed, 3, 3, *kernel)
    a, b = _random(seed, 3, high // 2), _random(seed, 3, wide // 2)
    right = torch.einsum("ij...,ip,jr->pr...", core.double(), a.double(), b.double())
    tensors = {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
    return tensors | {"alpha": torch.tensor(3.0)}, _kron(w1.double(), right)


def _full(seed: torch.Generator, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    delta = _random(seed, *shape)
    return {"diff": delta}, delta.double()


KINDS: dict[str, Make] = {
    "lora": _lora, "loha": _loha, "loha of high rank": _loha_wide, "lokr": _lokr,
    "lokr of factors": _lokr_both, "lokr of whole matrices": _lokr_full, "full": _full,
}  # fmt: skip
CONVOLVED: dict[str, Make] = {
    "locon": _locon, "loha, tucker": _loha_tucker, "lokr, tucker": _lokr_tucker,
}  # fmt: skip
CASES = [
    *itertools.product(KINDS, WHERE),
    *itertools.product(CONVOLVED, [CONV, POINT, STRIDED]),
]


def _file(path: Path, tensors: dict[str, Tensor], module: str = LINEAR, **more: Tensor) -> Path:
    name = f"lora_unet_{module.replace('.', '_')}"
    save_file({f"{name}.{key}": one.contiguous() for key, one in (tensors | more).items()}, path)
    return path


def _dense(target: Any, x: Tensor, delta: Tensor) -> Tensor:
    """(W + ΔW) x in float64."""
    weight = target.weight.double() + delta.to(target.weight.device)
    bias = None if target.bias is None else target.bias.double()
    if isinstance(target, nn.Conv2d):
        return F.conv2d(x.double(), weight, bias, target.stride, target.padding)
    return F.linear(x.double(), weight, bias)


def _input(target: Any) -> Tensor:
    seed = torch.Generator().manual_seed(5)
    if isinstance(target, nn.Conv2d):
        return _random(seed, 2, target.in_channels, 8, 8).to(target.weight.device)
    return _random(seed, 2, 7, target.in_features).to(target.weight.device)


def _error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


# ── against the dense formula ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "where"), CASES)
@torch.no_grad()
def test_every_kind_is_the_dense_formula(kind: str, where: str, base: Base, tmp_path: Path) -> None:
    target: Any = base.unet.get_submodule(where)
    seed = torch.Generator().manual_seed(1)
    tensors, delta = (KINDS | CONVOLVED)[kind](seed, tuple(target.weight.shape))
    weights = lora_file.load(_file(tmp_path / "a.safetensors", tensors, where), base)
    assert not weights.unplaced
    x = _input(target)
    for weight in (1.0, 0.35, 1.7, -0.8):
        with applied(base, [(weights.modules, weight)]):
            assert _error(target(x), _dense(target, x, weight * delta)) < EXACT
    (module,) = weights.modules
    pair = low_rank(module.part)
    assert _error(module.scale * pair.dense().reshape(delta.shape), delta) < EXACT


@pytest.mark.parametrize("where", [LINEAR, CONV])
@torch.no_grad()
def test_a_mix_of_all_kinds_is_their_sum_in_any_order(
    where: str, base: Base, tmp_path: Path
) -> None:
    target: Any = base.unet.get_submodule(where)
    shape = tuple(target.weight.shape)
    loras, total = [], torch.zeros(shape, dtype=torch.float64)
    for number, make in enumerate((KINDS if where == LINEAR else KINDS | CONVOLVED).values()):
        tensors, delta = make(torch.Generator().manual_seed(number), shape)
        weight = (-1) ** number * (0.3 + 0.2 * number)
        path = _file(tmp_path / f"{number}.safetensors", tensors, where)
        loras.append((lora_file.load(path, base).modules, weight))
        total += weight * delta
    x = _input(target)
    wanted = _dense(target, x, total)
    for order in (loras, loras[::-1], loras[3:] + loras[:3]):
        with applied(base, order):
            assert _error(target(x), wanted) < EXACT


@pytest.mark.parametrize("where", [LINEAR, CONV])
@pytest.mark.parametrize("axis", ["rows", "columns", "peft"])
@pytest.mark.parametrize("inner", ["lora", "loha", "lokr"])
@torch.no_grad()
def test_dora_has_its_norm_from_the_clean_base_at_weight_one(
    inner: str, axis: str, where: str, base: Base, tmp_path: Path
) -> None:
    """W' = m (W + ΔW) / ‖W + ΔW‖ by rows or columns; the weight is on W' − W, also in a mix."""
    target: Any = base.unet.get_submodule(where)
    weight = target.weight.double().cpu()
    seed = torch.Generator().manual_seed(2)
    tensors, delta = KINDS[inner](seed, tuple(weight.shape))
    changed = weight + delta
    if axis == "columns":
        norms = changed.transpose(0, 1).flatten(1).norm(dim=1)
        shape = (1, -1, *(1 for _ in weight.shape[2:]))
    else:
        norms = changed.flatten(1).norm(dim=1)
        shape = (-1, 1, *(1 for _ in weight.shape[2:]))
    magnitude = (1 + torch.rand(len(norms), generator=seed)).reshape(shape)
    key = "lora_magnitude_vector" if axis == "peft" else "dora_scale"
    kept = magnitude.flatten() if axis == "peft" else magnitude
    full = magnitude.double() * changed / norms.reshape(shape) - weight
    dora = lora_file.load(_file(tmp_path / "d.safetensors", tensors, where, **{key: kept}), base)
    plain, other = _lora(seed, tuple(weight.shape))
    beside = lora_file.load(_file(tmp_path / "p.safetensors", plain, where), base)
    x = _input(target)
    with applied(base, [(beside.modules, 0.5), (dora.modules, 0.7)]):
        assert _error(target(x), _dense(target, x, 0.7 * full + 0.5 * other)) < EXACT


@torch.no_grad()
def test_a_bias_of_a_full_adapter_is_added_too(base: Base, tmp_path: Path) -> None:
    target: Any = base.unet.get_submodule(CONV)
    seed = torch.Generator().manual_seed(3)
    tensors, delta = _full(seed, tuple(target.weight.shape))
    bias = _random(seed, 32)
    path = _file(tmp_path / "a.safetensors", tensors, CONV, diff_b=bias)
    x = _input(target)
    wanted = _dense(target, x, 0.5 * delta) + 0.5 * bias.to(x).double()[:, None, None]
    with applied(base, [(lora_file.load(path, base).modules, 0.5)]):
        assert _error(target(x), wanted) < EXACT


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@torch.no_grad()
def test_what_peft_trained_is_what_peft_computes(kind: str, base: Base, tmp_path: Path) -> None:
    config: Any = (LoHaConfig if kind == "loha" else LoKrConfig)(
        r=2, alpha=3, target_modules=[LINEAR, CONV], init_weights=False,
        **({"use_effective_conv2d": True} if kind == "loha" else {"decompose_factor": 4}),
    )  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8).to(base.device)
    late = torch.tensor([500], device=base.device)
    text = base.encode_text("a thing")
    inject_adapter_in_model(config, base.unet, "default")
    for name, parameter in base.unet.named_parameters():
        if "hada_" in name or "lokr_" in name:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    try:
        trained = base.denoise(x, late, text)
        tensors = {}
        for path in (LINEAR, CONV):
            layer = base.unet.get_submodule(path)
            for name, parameter in layer.named_parameters():
                if name.startswith(("hada_", "lokr_")):
                    role = name.removesuffix(".default")
                    tensors[f"base_model.model.{path}.{role}"] = parameter.detach().clone()
    finally:
        for path in (LINEAR, CONV):
            layer: Any = base.unet.get_submodule(path)
            base.unet.set_submodule(path, layer.get_base_layer())
        if hasattr(base.unet, "peft_config"):
            del base.unet.peft_config
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "alpha": 3}))
    weights = lora_file.load(tmp_path / "adapter_model.safetensors", base)
    plain = base.denoise(x, late, text)
    with applied(base, [(weights.modules, 1.0)]):
        ours = base.denoise(x, late, text)
    assert _error(ours - plain, (trained - plain).double()) < 1e-4


# ── live ────────────────────────────────────────────────────────────────────────────────────────


def _loras(base: Base, tmp_path: Path, count: int) -> list[list[Placed]]:
    """LoRAs of mixed ranks and kinds on many modules, text encoder included."""
    loras = []
    for number in range(count):
        seed = torch.Generator().manual_seed(number)
        tensors = {}
        for path, name in base.unet_names.items():
            shape = tuple(base.unet.get_submodule(path).weight.shape)
            make = _lokr_full if number % 3 == 2 and "attn2" not in path else _lora
            made = make(seed, shape)[0]
            tensors |= {f"{name}.{role}": one * 0.3 for role, one in made.items()}
        for path, name in base.text_names.items():
            shape = tuple(base.text_encoder.get_submodule(path).weight.shape)
            tensors |= {f"{name}.{role}": one for role, one in _lora(seed, shape)[0].items()}
        save_file(tensors, tmp_path / f"{number}.safetensors")
        loras.append(lora_file.load(tmp_path / f"{number}.safetensors", base).modules)
    return loras


@torch.no_grad()
def _predict(base: Base) -> Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(base.device)
    late = torch.tensor([500], device=base.device)
    return base.denoise(noisy, late, base.encode_text("a thing"))


def test_a_thousand_changes_end_where_they_began(base: Base, tmp_path: Path) -> None:
    plain = _predict(base)
    mix = Mix(base, _loras(base, tmp_path, 3))
    weights = [Strength(0.8), Strength(-0.3, text=0.1), Strength(1.2)]
    mix.set(weights)
    draw = torch.Generator().manual_seed(0)
    with mix.on():
        before = _predict(base)
        for _ in range(1000):
            mix.set([Strength(w, text=-w) for w in torch.randn(3, generator=draw).tolist()])
        assert not torch.allclose(_predict(base), before)
        mix.set(weights)
        assert torch.equal(_predict(base), before)
        mix.set([Strength(0.0)] * 3)
        assert torch.equal(_predict(base), plain)
    assert torch.equal(_predict(base), plain)


def test_a_change_takes_effect_without_a_new_stack(base: Base, tmp_path: Path) -> None:
    """Within one use of the mix, in place: what was stacked is the same memory."""
    loras = _loras(base, tmp_path, 3)
    mix = Mix(base, loras)
    places = [site.v.data_ptr() for site in mix.sites]
    changes = [[1.0, 0.0, 0.0], [0.0, 2.0, -1.0], [0.5, 0.5, 0.5]]
    live = []
    with mix.on():
        for weights in changes:
            mix.set([Strength(one) for one in weights])
            live.append(_predict(base))
    assert places == [site.v.data_ptr() for site in mix.sites]
    for weights, seen in zip(changes, live, strict=True):
        with applied(base, list(zip(loras, weights, strict=True))):
            assert torch.equal(_predict(base), seen)


def test_the_text_encoder_has_its_own_weight(base: Base, tmp_path: Path) -> None:
    (modules,) = _loras(base, tmp_path, 1)
    text = [module for module in modules if module.network == "text_encoder"]
    unet = [module for module in modules if module.network == "unet"]
    with applied(base, [(modules, Strength(0.5, text=-0.2))]):
        both = _predict(base)
    with applied(base, [(unet, 0.5), (text, -0.2)]):
        assert torch.allclose(_predict(base), both, atol=1e-5)
    with applied(base, [(modules, 0.5)]):
        assert not torch.allclose(_predict(base), both, atol=1e-3)


def test_block_weights_are_those_of_the_blocks(base: Base, tmp_path: Path) -> None:
    (modules,) = _loras(base, tmp_path, 1)
    middle = [m for m in modules if m.network == "unet" and m.path.startswith("mid_block")]
    labels = blocks._labels(base.unet.config)[0]
    values = tuple(1.0 if one == "M00" else 0.0 for one in labels)
    with applied(base, [(modules, Strength(0.7, values=values))]):
        only = _predict(base)
    with applied(base, [(middle, 0.7)]):
        assert torch.equal(_predict(base), only)
    mix = Mix(base, [modules])
    with pytest.raises(LoraError) as refused:
        mix.set([Strength(1.0, values=(1.0, 2.0))])
    assert refused.value.code is Code.BAD_REQUEST and "2 block weights" in refused.value.message


def test_thirty_two_loras_at_once_and_one_of_them_twice(base: Base, tmp_path: Path) -> None:
    loras = _loras(base, tmp_path, 32)
    with applied(base, [(one, 1 / 32) for one in loras]):
        many = _predict(base)
    assert bool(torch.isfinite(many).all())
    with applied(base, [(loras[0], 0.25), (loras[0], 0.25)]):
        twice = _predict(base)
    with applied(base, [(loras[0], 0.5)]):
        assert torch.allclose(_predict(base), twice, atol=1e-5)


def test_a_part_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError):
        fitted(LowRank(torch.ones(2, 4), torch.ones(4, 2)), torch.Size((4, 5)))
    with pytest.raises(ValueError):
        fitted(Kronecker(torch.ones(2, 2), torch.ones(2, 2)), torch.Size((8, 4)))


# ── in the studio ───────────────────────────────────────────────────────────────────────────────


def test_a_picture_that_overflows_names_the_lora_that_adds_most_and_at_which_weight(
    base_path: Path, base: Base, tmp_path: Path
) -> None:
    _loras(base, tmp_path, 2)
    told: list[Any] = []
    studio = Studio(torch.device("cpu"), told.append, lambda _: False)

    def failed(*weights: float) -> str:
        files = [
            pipe.LoraFile(path=str(tmp_path / f"{n}.safetensors"), name=f"style {n}", weight=one)
            for n, one in enumerate(weights)
        ]
        spec = PictureSpec(prompt="a thing", steps=2)
        job = pipe.Paint(
            job="j", spec=spec, base_path=str(base_path), loras=files, out=str(tmp_path / "o.png")
        )
        studio.serve(job, lambda: studio.base(str(base_path)))
        assert isinstance(told[-1], pipe.PaintFailed), told[-1]
        assert told[-1].failure.code is Code.DIVERGED
        return str(told[-1].failure.message)

    said = failed(0.7, 1e30)
    assert "beyond what fp32 can hold" in said
    assert "Of 2 LoRAs style 1 at weight 1e+30 is the likely cause: to " in said
    assert "style 1" in failed(0.0, 1e30)  # one that does nothing is none
    assert "style 0 at weight -1e+30" in failed(-1e30, 1e3)
    with torch.no_grad():
        studio.base(str(base_path)).unet.conv_in.weight.fill_(float("nan"))
    assert "No LoRA has a weight here" in failed(0.0)


def test_the_studio_changes_weights_without_reading_or_stacking_again(
    base_path: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _loras(base, tmp_path, 2)
    read: list[str] = []
    load = lora_file.load
    monkeypatch.setattr(
        lora_file, "load", lambda path, base: (read.append(path.name), load(path, base))[1]
    )
    told: list[Any] = []
    studio = Studio(torch.device("cpu"), told.append, lambda _: False)

    def paint(*weights: float, text: float | None = None, steps: int = 2) -> bytes:
        files = [
            pipe.LoraFile(
                path=str(tmp_path / f"{n}.safetensors"), name=str(n), weight=one, text_weight=text
            )
            for n, one in enumerate(weights)
        ]
        out = tmp_path / "out.png"
        spec = PictureSpec(prompt="a thing", steps=steps)
        job = pipe.Paint(job="j", spec=spec, base_path=str(base_path), loras=files, out=str(out))
        studio.serve(job, lambda: studio.base(str(base_path)))
        assert isinstance(told[-1], pipe.Painted), told[-1]
        return Image.open(out).tobytes()

    first = paint(0.7, 0.2)
    assert told[0] == pipe.PaintStep(job="j", step=0, steps=0, before=f"loading {base_path.name}")
    assert told[1] == pipe.PaintStep(job="j", step=0, steps=2)
    told.clear()
    assert read == ["0.safetensors", "1.safetensors"]
    assert len({first, paint(0.2, 0.7), paint(0.7, 0.2, text=0.0), paint(0.0, 0.0)}) == 4
    assert paint(0.7, 0.2) == first and len(read) == 2
    assert not any(one.before for one in told if isinstance(one, pipe.PaintStep))
    (tmp_path / "0.safetensors").write_bytes((tmp_path / "1.safetensors").read_bytes())
    assert paint(0.7, 0.2) != first and len(read) == 4  # another file: it is read
    assert paint(0.7) != first and len(read) == 5
