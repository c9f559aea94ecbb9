"""Training on a GPU: the CPU's losses, every option, and a run that goes on where it was left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine.bases import Base, best_precision
from lora_daemon.engine.cache import load_picture, pixels_of
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.studio import Studio
from lora_daemon.engine.train import train
from shared.recipe import convert
from tests.engine import worker_process as work
from tests.engine.test_compiled import notices, prepared, ran, weights
from tests.engine.test_options import adapted
from tests.engine.test_options_resume import CASES
from tests.engine.test_options_resume import _prepared as of_case
from tests.engine.test_options_resume import _run as run_of
from tests.engine.test_train import Steps, fed

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
OTHERS: dict[str, dict[str, Any]] = {
    "int8": {"base": {"quantize": "int8"}, "optimizer": {"learning_rate": 1e-2}},
    "adamw8bit": {"optimizer": {"kind": "adamw8bit", "learning_rate": 1e-2}},
    "fp16, its loss scaled": {
        "training": {"precision": "fp16"}, "optimizer": {"learning_rate": 1e-2}
    },
    "fp32, everything a target": {
        "training": {"precision": "fp32"}, "optimizer": {"learning_rate": 1e-2},
        "network": {"targets": ["to_q", "ff", "proj", "conv"]},
    },
}  # fmt: skip


def losses(told: list[Any]) -> list[float]:
    """Of each step that was told."""
    return [point.loss for one in told if isinstance(one, pipe.Tick) for point in one.points]


def near(ours: list[float], theirs: list[float], share: float) -> None:
    """Fails with both curves where they differ by more than a share of either."""
    assert len(ours) == len(theirs) > 0
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    assert apart < share, f"{apart:.2e} apart: {ours} and {theirs}"


@pytest.mark.parametrize(
    "network",
    [{"targets": ["to_q", "ff", "conv"]}, {"kind": "dora"}, {"kind": "lokr", "targets": ["conv"]}],
    ids=["lora", "dora", "lokr"],
)
def test_in_fp32_the_losses_are_the_cpus(
    network: dict[str, Any], device: torch.device, base_path: Path, tmp_path: Path
) -> None:
    """From the latents that the CPU has cached, for the VAE's convolutions are in TF32."""
    found = []
    for name, where in (("cpu", CPU), ("here", device)):
        order = prepared(
            tmp_path / name, base_path, compiling=False, training={"precision": "fp32"},
            network={"rank": 4, "alpha": 2.0} | network,
        )  # fmt: skip
        told = ran(order, device=where)
        assert isinstance(told[-1], pipe.Finished), told[-1]
        found.append((losses(told), weights(order)))
    (theirs, their_weights), (ours, our_weights) = found
    near(ours, theirs, 1e-3)
    assert torch.dist(our_weights, their_weights) < 0.1 * their_weights.norm()


def test_in_the_precision_of_auto_they_are_close(
    device: torch.device, base_path: Path, tmp_path: Path
) -> None:
    found = []
    for name, where in (("cpu", CPU), ("here", device)):
        order = prepared(tmp_path / name, base_path, compiling=False)
        found.append(losses(ran(order, device=where)))
    assert best_precision(device) == ("bf16" if device.type == "cuda" else "fp32")
    near(found[1], found[0], 0.03)


def test_text_and_latents_are_the_cpus(base: Base, on_cpu: Base, tmp_path: Path) -> None:
    ours, theirs = (one.encode_text("a drawing of thing 1").cpu() for one in (base, on_cpu))
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    picture = work.pictures(tmp_path, 1)[0]
    pixels = pixels_of(load_picture(Path(picture.path)), (64, 64))[None]
    ours, theirs = (one.encode_pixels(pixels)[0].cpu() for one in (base, on_cpu))
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()  # TF32 has 10 bits
    ours, theirs = (one.decode_latents(theirs.to(one.device)).cpu() for one in (base, on_cpu))
    assert (ours - theirs).abs().max() < 2 / 127.5
    assert not torch.backends.cudnn.allow_tf32  # the VAE alone


@pytest.fixture(scope="module")
def studio(device: torch.device) -> Studio:
    return Studio(device, lambda report: None, lambda job: False)


@pytest.mark.parametrize("name", [*CASES, *OTHERS])
def test_with_any_options_it_trains_and_goes_on(
    name: str, tmp_path: Path, base_path: Path, studio: Studio
) -> None:
    """On a GPU sums are made in an order that is not the same each time (attention's gradient), so
    what goes on is close to what was never left, and the run says that it is no more than that."""
    sections = (CASES | OTHERS)[name]
    unbroken = of_case(tmp_path / "unbroken", base_path, sections)
    whole = losses(run_of(unbroken, studio))
    broken = of_case(tmp_path / "broken", base_path, sections)
    first = losses(run_of(broken, studio, leave=True))
    resumed = run_of(broken, studio)
    (taken_up,) = (one for one in resumed if isinstance(one, pipe.Resumed))
    assert taken_up.step == 3
    # "fp16" in a CPU's words is no case of exactness either.
    exact = studio.device.type == "cpu" and "fp16" not in name
    assert taken_up.identical == exact, taken_up.why
    assert exact or "does not repeat bit for bit" in taken_up.why
    assert len(whole) == 6 and all(map(math.isfinite, whole))
    near(first + losses(resumed), whole, 0.03)
    early, _ = work.content(unbroken, "things-step000003")
    assert early != work.content(unbroken)[0]
    print(f"{name}: the same bytes: {work.content(broken) == work.content(unbroken)}")


def test_eight_bits_are_had_or_it_is_said_why_not(
    device: torch.device, base_path: Path, tmp_path: Path
) -> None:
    order = prepared(tmp_path / "run", base_path, compiling=False, optimizer={"kind": "adamw8bit"})
    told = ran(order, device=device)
    assert isinstance(told[-1], pipe.Finished), told[-1]
    try:
        import bitsandbytes
    except ImportError:
        (notice,) = notices(told)
        assert "AdamW cannot be had in 8 bits" in notice
        assert device.type == "cpu" or "bitsandbytes cannot be loaded" in notice


class Unwaited(Steps):
    """Steps in which nothing may wait for the device, and whose losses are read in the end."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.kept: list[torch.Tensor] = []

    def steps(self) -> Iterator[int]:
        yield from range(4)  # the first ones may: kernels are loaded, each shape is recorded
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from range(4, self.total)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def record(self, loss: torch.Tensor, rate: float, norm: torch.Tensor) -> None:
        self.kept += [loss, norm]


@pytest.mark.parametrize("masked", [False, True])
def test_no_step_waits_for_the_device(
    cuda: torch.device, masked: bool, base: Base, tmp_path: Path
) -> None:
    """The next batch is made ready, and the next kernels are given out, while it computes."""
    assert cuda == base.device
    recipe = convert({"training": {"batch_size": 2, "accumulation": 2, "ema": 0.9}})
    feed = fed(base, tmp_path, recipe)
    if masked:
        feed.masks = [[one.mean[0].abs() for one in several] for several in feed.moments]
    adapter = adapted(base, recipe)
    session = Unwaited(10)
    try:
        train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, session)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        adapter.remove()
    assert len(session.kept) == 20 and all(math.isfinite(float(one)) for one in session.kept)
