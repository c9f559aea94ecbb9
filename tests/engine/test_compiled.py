"""A denoiser that is compiled for a run: which shapes, what it trains, and where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from lora_daemon import pipe
from lora_daemon.engine import compiled
from lora_daemon.engine.bases import Base
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from shared.errors import Code
from tests.engine import tiny_base
from tests.engine import worker_process as work
from tests.engine.test_bucketed import fed, recipe_of
from tests.engine.test_options_resume import LeaveAt

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    compiled.hindrance.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    compiled.hindrance.cache_clear()


@pytest.fixture(scope="module")
def flux_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.build_flux(tmp_path_factory.mktemp("flux") / "dev", blocks=1)


def prepared(folder: Path, base_path: Path, /, *, compiling: bool, **sections: Any) -> pipe.Train:
    training = {"max_steps": 6, "batch_size": 3} | sections.pop("training", {})
    optimizer = {"learning_rate": 1e-2} | sections.pop("optimizer", {})
    return work.prepare(
        folder, base_path, work.pictures(folder.parent / "pictures", 4),
        training={**training, "compile": compiling}, optimizer=optimizer,
        save={"every_steps": 3} | sections.pop("save", {}), **sections,
    )  # fmt: skip


def ran(order: pipe.Train, *, leave: bool = False, device: torch.device = CPU) -> list[Any]:
    torch.set_num_threads(1)
    told: list[Any] = []
    run(order, Studio(device, told.append, lambda job: False), LeaveAt(told, leave), told.append)
    return told


def notices(told: list[Any]) -> list[str]:
    return [one.message for one in told if isinstance(one, pipe.Notice)]


def weights(order: pipe.Train) -> torch.Tensor:
    found = load_file(Path(order.run_dir) / "lora" / "things.safetensors")
    return torch.cat([found[key].double().flatten() for key in sorted(found)])


def test_each_shape_that_any_epoch_has_is_compiled_for_and_no_other(
    base: Base, tmp_path: Path
) -> None:
    recipe = recipe_of(training={"batch_size": 4, "accumulation": 2, "epochs": 3})
    feed, _ = fed(base, tmp_path, recipe)
    expected = {
        batch.latents.shape
        for step in range(3 * feed.steps_per_epoch)
        for batch in feed.batches(step)
    }
    shapes = [batch.latents.shape for batch in feed.examples()]
    assert len(shapes) == len(set(shapes)) > 2 and set(shapes) == expected


def test_what_is_traced_trains_as_it_does_eagerly(
    flux_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes kernels of it: here torch's own."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    sample = {"prompts": ["a thing"], "every_steps": 2, "every_epochs": 0, "steps": 2}
    orders = [
        prepared(tmp_path / f"{compiling}", flux_path, compiling=compiling, sample=sample)
        for compiling in (False, True)
    ]
    ran(orders[0])
    told = ran(orders[1])
    assert isinstance(told[-1], pipe.Finished), told[-1]
    assert not notices(told)
    counts = [
        (one.done, one.total)
        for one in told
        if isinstance(one, pipe.Phase) and one.phase == "compiling"
    ]
    assert (counts[0], counts[-1]) == ((0, 2), (2, 2))  # batches of three and of one
    assert counters["stats"]["unique_graphs"] == 2 + 1  # and the trial of the compiler
    assert not counters["graph_break"]
    plain, traced = map(weights, orders)
    assert torch.dist(traced, plain) < 1e-5 * plain.norm()


def test_without_a_compiler_it_trains_eagerly_and_says_so(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: Any, inputs: Any) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found.\nMore.")

    monkeypatch.setattr(compiled, "BACKEND", missing)
    order = prepared(tmp_path / "run", base_path, compiling=True)
    told = ran(order, leave=True)
    (notice,) = notices(told)
    assert "compiled here: No working C++ compiler found. It is trained eagerly" in notice
    assert not any(isinstance(one, pipe.Phase) and one.phase == "compiling" for one in told)

    monkeypatch.setattr(compiled, "learner", lambda recipe, base, *_: base)  # one is there now
    (taken_up,) = (one for one in ran(order) if isinstance(one, pipe.Resumed))
    assert "kernels: eager → compiled" in taken_up.why


@pytest.mark.parametrize("fault", ["refuses", "is wrong"])
def test_kernels_that_cannot_be_had_or_are_wrong_are_not_trained_with(
    fault: str, flux_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        if len(module.graph.nodes) < 20:
            return module.forward
        if fault == "refuses":
            raise RuntimeError("too many registers")

        def detached(*args: Any) -> Any:  # in the forward nothing is to be seen
            outs = module.forward(*args)
            return tuple(0.9 * one + 0.1 * one.detach() for one in outs)

        return detached

    plain = prepared(tmp_path / "plain", flux_path, compiling=False)
    ran(plain)
    monkeypatch.setattr(compiled, "BACKEND", backend)
    order = prepared(tmp_path / "run", flux_path, compiling=True)
    (notice,) = notices(ran(order))
    said = {"refuses": "denoiser: too many registers.", "is wrong": "off by 10%"}
    assert said[fault] in notice and "It is trained eagerly" in notice
    assert torch.equal(weights(order), weights(plain))


def test_memory_that_is_not_enough_for_compiling_stays_a_matter_of_memory(
    flux_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        if len(module.graph.nodes) < 20:
            return module.forward
        raise torch.OutOfMemoryError("of the device")

    monkeypatch.setattr(compiled, "BACKEND", full)
    failed = ran(prepared(tmp_path / "run", flux_path, compiling=True))[-1]
    assert failed.failure.code == Code.OUT_OF_MEMORY


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("network", "training", "rest"),
    [
        ({"targets": ["to_q", "to_k", "ff", "conv"]}, {}, {}),
        ({"kind": "dora"}, {}, {}),
        ({"kind": "lokr"}, {"checkpointing": True}, {}),
        ({"kind": "loha"}, {}, {"base": {"quantize": "int8"}}),
        ({}, {}, {"loss": {"preservation": 0.5, "class_caption": "a thing"}}),
    ],
    ids=["lora", "dora", "lokr-checkpointing", "loha-int8", "preservation"],
)
def test_killed_and_taken_up_it_ends_with_the_bytes_of_an_unbroken_run(
    network: Any, training: Any, rest: Any, tmp_path: Path
) -> None:
    """With real kernels, and a worker that is killed when it has saved. Of the starter's shape: of
    a tiny one torch 2.13 makes wrong ones, which is noticed."""
    base_path = tiny_base.build(tmp_path / "base", "starter")

    def order(name: str) -> pipe.Train:
        return prepared(
            tmp_path / name, base_path, compiling=True, training={"batch_size": 2} | training,
            network={"rank": 4, "alpha": 2.0} | network,
            **{key: dict(value) for key, value in rest.items()},
        )  # fmt: skip

    unbroken, broken = order("unbroken"), order("broken")
    with work.worker() as worker:
        worker.send(unbroken)
        worker.until(pipe.Finished)
        assert not [one for one in notices(worker.of(pipe.Notice)) if "training.compile" in one]
    with work.worker() as worker:
        worker.send(broken)
        worker.until(pipe.CheckpointSaved)
        worker.kill()
    with work.worker() as worker:
        worker.send(broken)
        worker.until(pipe.Finished)
    assert work.content(broken) == work.content(unbroken)
