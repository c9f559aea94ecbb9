"""Mixing at SD 1.5's shape: what a change of weight costs, and what a step costs more.

    python -m bench.mixing [--shape sd15|starter] [--size 8] [--rounds 9] [--device cuda:0]
                           [--only change|step|conflict]

``change``: 5 LoRAs of rank 32 on every module, one weight vector against peft's ``set_adapters``
on a model with the same five. ``step``: the UNet without LoRAs, with 3 and with 10 of rank 16; the
arms take turns, so that whatever else the machine does meets them alike; ``refold`` is what folding
three or ten into second weights from the clean ones takes instead, after which a step is a bare
one. One JSON object: medians in ms, and ratios as medians of the rounds' own ratios. On a GPU,
where there is one, in the precision that the product paints with there, at latents of 64 × 64, and
each turn is waited for. ``conflict`` is ``bench.conflict``.
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from bench import conflict
from lora_daemon.engine import bases
from lora_daemon.engine.bases import Base
from lora_daemon.engine.device import name as name_of
from lora_daemon.engine.device import use_threads
from lora_daemon.engine.folded import Folds
from lora_daemon.engine.mix import Mix, Placed, Strength
from lora_daemon.engine.parts import LowRank
from lora_daemon.names import unet_names
from tests.engine import tiny_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=("sd15", "starter"), default="sd15")
    parser.add_argument(
        "--size", type=int, help="side of the latents in a step; default: 64 on a GPU, else 8"
    )
    parser.add_argument("--device", type=torch.device, default=bases.best_device())
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("change", "step", "conflict"), default="")
    options = parser.parse_args()
    if options.only == "conflict":
        print(json.dumps({"conflict": conflict.figures(rank=32, rounds=options.rounds)}))
        return
    threads = use_threads()
    size = options.size or (8 if options.device.type == "cpu" else 64)
    found: dict[str, Any] = {
        "shape": options.shape, "device": name_of(options.device), "threads": threads, "size": size,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = tiny_base.build(Path(folder) / "base", "starter")
        base = bases.load(path, options.device, options.precision)
        found["dtype"] = str(base.dtype).removeprefix("torch.")
        if options.shape == "sd15":
            base.denoiser = _sd15().to(base.device, base.dtype)
            base.unet_names = unet_names(base.unet.config)
        if options.only != "change":  # first: peft's layers of the other stay in the model
            found["step"] = step(base, size, options.rounds)
        if options.only != "step":
            found["change"] = change(base, options.rounds)
    print(json.dumps(found))


def change(base: Base, rounds: int) -> dict[str, float]:
    """ms to give five LoRAs of rank 32 other weights: ours, peft's."""
    mix = Mix(base, [_lora(base, 32, number) for number in range(5)])
    draw = torch.Generator().manual_seed(0)
    weights = [torch.rand(5, generator=draw).tolist() for _ in range(rounds)]
    ours = [_timed(base, partial(mix.set, [Strength(one) for one in w])) for w in weights]
    for number in range(5):
        _inject(base, 32, f"a{number}")
    theirs = [_timed(base, partial(_set_adapters, base, w)) for w in weights]
    return _compared(ours=ours, peft=theirs)


def step(base: Base, size: int, rounds: int) -> dict[str, float]:
    """ms of a UNet pass at batch 2: bare, with 3 and 10 LoRAs of rank 16 in a mix."""
    three = Mix(base, [_lora(base, 16, number) for number in range(3)])
    ten = Mix(base, [_lora(base, 16, number) for number in range(10)])
    for mix in (three, ten):
        mix.set([Strength(0.5)] * mix.count)
    kind: Any = {"device": base.device}
    x = torch.randn(2, 4, size, size, **kind)
    wide = int(base.unet.config.cross_attention_dim)
    text = torch.randn(2, 77, wide, dtype=base.dtype, **kind)
    timestep = torch.tensor([500], **kind)

    def bare() -> Tensor:
        return base.denoise(x, timestep, text)

    def mixed(mix: Mix) -> Callable[[], Tensor]:
        def once() -> Tensor:
            with mix.on():
                return bare()

        return once

    arms = {"bare": bare, "three": mixed(three), "ten": mixed(ten)}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            took = _timed(base, arm)
            if number:  # the first round warms up
                times[name].append(took)
    graphs: dict[str, float] = {}
    if base.device.type == "cuda":
        taken = {name: _replayed_ms(base, arm, rounds) for name, arm in arms.items()}
        graphs = {f"{name}_graph_ms": ms for name, ms in taken.items()}
        graphs |= {
            f"{name}_graph/bare_graph": round(taken[name] / taken["bare"], 3)
            for name in ("three", "ten")
        }
    return (
        _compared(**times)
        | graphs
        | {
            f"{name}_refold_ms": _refolding(base, mix, rounds)
            for name, mix in (("three", three), ("ten", ten))
        }
    )


def _replayed_ms(base: Base, arm: Callable[[], Tensor], rounds: int) -> float:
    """ms of a pass whose kernels are all started at once: what they take by themselves."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        arm()
    took = [_timed(base, graph.replay) for _ in range(rounds + 1)]
    return round(statistics.median(took[1:]), 3)


def _refolding(base: Base, mix: Mix, rounds: int) -> float:
    """ms of folding a mix into second weights; the product does it in fp32 alone, where nothing is
    lost."""
    folds = Folds(mix.sites)
    took = []
    for _ in range(rounds + 1):
        folds.stale = True
        took.append(_timed(base, folds.put))
    folds.take_off()
    return round(statistics.median(took[1:]), 3)


def _compared(**times: Sequence[float]) -> dict[str, float]:
    """Medians, and each arm against the first, round by round."""
    first, *others = times
    medians = {f"{name}_ms": round(statistics.median(one), 3) for name, one in times.items()}
    ratios = {
        f"{name}/{first}": round(
            statistics.median(a / b for a, b in zip(times[name], times[first], strict=True)), 3
        )
        for name in others
    }
    return medians | ratios


def _timed(base: Base, act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)
    return 1000 * (time.perf_counter() - began)


def _sd15() -> UNet2DConditionModel:
    """SD 1.5's UNet with small numbers for weights: 3.4 GB."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        ).eval()
    unet = unet.to_empty(device="cpu").requires_grad_(False)
    for parameter in unet.parameters():
        parameter.fill_(1e-3)
    return unet.to(memory_format=torch.channels_last)


def _lora(base: Base, rank: int, seed: int) -> list[Placed]:
    draw = torch.Generator().manual_seed(seed)
    modules = []
    for path in base.unet_names:
        high, *wide = base.unet.get_submodule(path).weight.shape
        down = torch.randn(rank, *wide, generator=draw) * 0.01
        modules.append(Placed("unet", path, LowRank(down, torch.zeros(high, rank)), 1.0))
    return modules


def _inject(base: Base, rank: int, name: str) -> None:
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[*base.unet_names])
    inject_adapter_in_model(config, base.unet, name)


def _set_adapters(base: Base, weights: Sequence[float]) -> None:
    """What diffusers' ``set_adapters`` does on every layer of peft's."""
    names = [f"a{number}" for number in range(len(weights))]
    for module in base.unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(names)
            for name, weight in zip(names, weights, strict=True):
                module.set_scale(name, weight)


if __name__ == "__main__":
    main()
