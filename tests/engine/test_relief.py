"""Out of memory: what a run takes is counted, and the settings that save most are offered."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine import relief, samples
from lora_daemon.engine.memory import Counted, Need
from lora_daemon.engine.relief import Setting
from lora_daemon.engine.steering import Steering
from lora_daemon.families import SD1
from shared import recipe as recipes
from shared.errors import Code
from shared.recipe import Recipe, convert
from tests.engine import full_size
from tests.engine import worker_process as work

CPU = torch.device("cpu")
# Says how many bytes one decode took at most.
_DECODE = """
import torch
from diffusers import AutoencoderKL
from lora_daemon.families import SD1
vae = AutoencoderKL.from_config(SD1.configs["vae"]).eval()
def status(key):  # VmHWM is this program's own; ru_maxrss would be that of who began it, too
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) * 1024
with torch.no_grad():
    vae.decode(torch.zeros(1, 4, 8, 8))
    before = status("VmRSS")
    vae.decode(torch.zeros(1, 4, 24, 24))
print(status("VmHWM") - before)
"""
ROOM = 120 * 2**20  # bytes that a worker has besides what it has begun with


def test_what_is_counted_follows_the_recipe(base_path: Path) -> None:
    counted = Counted(base_path)

    def need(precision: str = "fp32", **training: object) -> Need:
        recipe = convert({"training": training, "network": {"rank": 4}})
        return counted.need(recipe, precision, pictures=100)

    plain = need()
    double = need(batch_size=2)
    assert 1.9 < double.step / plain.step < 2.1
    saving = need(checkpointing=True)
    assert saving.step < plain.step / 2 and saving.adapter == plain.adapter
    half = need("bf16")
    assert half.frozen < 0.7 * plain.frozen and half.step < plain.step
    assert counted.need(
        convert({"training": {"batch_size": 999}, "network": {"rank": 4}}), "fp32", 2
    ).step == (double.step)
    assert plain.most == plain.frozen + max(plain.adapter + plain.step, plain.encoding)
    assert plain.sampling == 0 and plain.peak == plain.most  # no sample is asked for


def test_a_sample_is_counted_as_its_vae_takes_memory(tmp_path: Path) -> None:
    """SD 1.5's at full size with random weights, in a process of its own; its convolutions on the
    CPU take some room besides."""
    counted = Counted(full_size.write_hollow(tmp_path / "base.safetensors", SD1))
    small = {"dataset": {"resolution": 192}, "training": {"checkpointing": True}}
    need = counted.need(convert(small | {"sample": {"prompts": ["a dog"]}}), "bf16", 100)
    assert need.peak == need.frozen + need.adapter + need.sampling > need.most
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed is given back
    done = subprocess.run(
        [sys.executable, "-c", _DECODE], env=environment, capture_output=True, text=True, check=True
    )
    assert 0.9 < int(done.stdout) / need.sampling < 1.5


def test_the_step_is_what_torch_really_allocates(base_path: Path) -> None:
    """Against a real step on the CPU: what autograd keeps of it for going back."""
    from lora_daemon.engine import bases
    from lora_daemon.engine.adapters import Adapter

    recipe = convert({"network": {"rank": 4}, "training": {"batch_size": 8}})
    base = bases.load(base_path, CPU)
    adapter = Adapter(base, recipe.network, seed=0)
    kept: dict[int, int] = {}
    own = {one.untyped_storage().data_ptr() for one in (*base.unet.parameters(), adapter.vector)}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = base.denoise(
                torch.randn(8, 4, 8, 8), torch.zeros(8, dtype=torch.int64), torch.randn(8, 77, 32)
            )
        assert out.requires_grad
    finally:
        adapter.remove()
    step = Counted(base_path).need(recipe, "fp32", 100).step
    assert 0.8 * sum(kept.values()) < step < 1.6 * sum(kept.values())


def needing(sizes: dict[str, int]) -> relief.Callable[[Recipe], Need]:
    """A recipe needs 1000 bytes less those of what is set in it."""

    def need(recipe: Recipe) -> Need:
        text = recipes.dump(recipe)
        saved = sum(size for words, size in sizes.items() if words in text)
        return Need(0, 0, 1000 - saved, 0, 0)

    return need


def test_what_saves_most_comes_first_and_more_only_where_it_is_needed() -> None:
    recipe = convert({"training": {"batch_size": 2}})
    offered = relief.settings(recipe, "fp32", 128, CPU)
    need = needing({"checkpointing = true": 500, "batch_size = 1": 300, "resolution = 64": 700})
    assert relief.relief(recipe, offered, need, 0).sets == ["training.checkpointing=true"]
    assert relief.relief(recipe, offered, need, 600) == (["training.checkpointing=true"], 1000, 500)
    both = ["training.checkpointing=true", "training.batch_size=1", "training.accumulation=2"]
    assert relief.relief(recipe, offered, need, 300) == (both, 1000, 200)
    every = relief.relief(recipe, offered, need, 1)
    assert every.sets == [*both, "dataset.resolution=64"]
    assert recipes.parse(recipes.dump(recipe), every.sets)


def test_what_is_set_already_or_contradicts_is_not_offered() -> None:
    def names(**tree: object) -> list[str]:
        found = relief.settings(convert(dict(tree)), "fp32", 512, CPU)
        return [one.sets[0] for one in found]

    eight = {"quantize": "int8"}
    assert names(training={"checkpointing": True}, base=eight) == ["dataset.resolution=384"]
    assert "training.checkpointing=true" not in names(network={"dropout": 0.1})
    assert names()[0] == "training.checkpointing=true"


def test_where_nothing_saves_it_says_so() -> None:
    recipe = convert({})
    found = relief.relief(recipe, [Setting(["save.every_steps=1"], cost=0)], needing({}), 0)
    assert found.sets == []
    assert "Nothing is left to set" in relief.told(found, Need(0, 0, 1000, 0, 0), 0, "r1", 0)


def test_a_run_without_memory_names_the_setting_that_saves_most(
    tmp_path: Path, base_path: Path
) -> None:
    order = work.prepare(
        tmp_path / "run", base_path, work.pictures(tmp_path / "pictures"),
        dataset={"resolution": 512}, training={"batch_size": 4, "epochs": 1000},
    )  # fmt: skip
    with work.worker() as one:
        one.until(pipe.Ready)
        status = Path(f"/proc/{one.pid}/statm").read_text()
        now = int(status.split()[0]) * resource.getpagesize()
        resource.prlimit(one.pid, resource.RLIMIT_AS, (now + ROOM, now + ROOM))
        one.send(order)
        failure = one.until(pipe.RunFailed).failure
        assert failure.code is Code.OUT_OF_MEMORY
        assert failure.data["settings"], failure.message
        assert failure.data["needed_so"] < failure.data["needed"]
        sets = " ".join(f"--set {setting}" for setting in failure.data["settings"])
        assert f"`lora-tui run fork r1 {sets}`" in failure.message
        assert not one.ended


def test_out_of_memory_in_a_sample_costs_that_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base_path: Path
) -> None:
    from lora_daemon.engine import bases
    from lora_daemon.engine.adapters import Adapter

    real, calls = samples.paint, 0

    def paint(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(samples, "paint", paint)
    told: list[pipe.Report] = []
    recipe = convert({"sample": {"prompts": ["one", "two"], "steps": 2}})
    base = bases.load(base_path, CPU)
    adapter = Adapter(base, recipe.network, seed=0)
    steering = Steering("r1", SimpleNamespace(leaving=lambda run: False), told.append)  # type: ignore[arg-type]
    before = adapter.vector.data.clone()
    try:
        samples.Samples(
            recipe, base, tmp_path, 64, "tiny", steering, adapter.averaged
        ).make(5)  # fmt: skip
    finally:
        adapter.remove()
    (notice,) = [one for one in told if isinstance(one, pipe.Notice)]
    assert "A sample of step 5 failed: The memory is not enough" in notice.message
    (saved,) = [one for one in told if isinstance(one, pipe.SampleSaved)]
    assert saved.prompt == "two" and (tmp_path / saved.path).exists()
    assert torch.equal(adapter.vector.data, before)
