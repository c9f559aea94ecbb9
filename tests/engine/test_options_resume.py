"""A run that is left and taken up again ends with the same bytes, whatever options are on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_daemon import pipe
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from tests.engine import worker_process as work

LEARNING: dict[str, Any] = {"learning_rate": 1e-2}
CASES: dict[str, dict[str, Any]] = {
    "adafactor": {"optimizer": {"kind": "adafactor", **LEARNING}},
    "lion": {"optimizer": {"kind": "lion", **LEARNING}, "loss": {"kind": "huber"}},
    "prodigy": {
        "optimizer": {"kind": "prodigy", "learning_rate": 1.0, "text_encoder_rate": 1.0},
        "loss": {"weighting": "debiased"},
    },
    "came": {"optimizer": {"kind": "came", **LEARNING}, "noise": {"offset": 0.1}},
    "average, accumulation, restarts": {
        "optimizer": LEARNING,
        "training": {"ema": 0.99, "accumulation": 2},
        "schedule": {"kind": "cosine_with_restarts", "cycles": 2, "warmup_steps": 2},
    },
    "dropouts, everything a target": {
        "optimizer": LEARNING,
        "network": {
            "targets": ["to_q", "to_k", "to_v", "to_out.0", "ff", "proj", "conv"],
            "dropout": 0.2, "rank_dropout": 0.2, "module_dropout": 0.2, "conv_rank": 2,
            "rslora": True, "max_norm": 0.1,
        },
    },
    "text encoder, shuffled tags": {
        "optimizer": {**LEARNING, "text_encoder_rate": 5e-3, "lora_plus": 4.0},
        "dataset": {"shuffle_tags": True, "caption_dropout": 0.3, "tag_dropout": 0.2},
        "loss": {"weighting": "min_snr"},
        "noise": {"multires_iterations": 4, "input_perturbation": 0.1},
    },
    "dora, blocks at ranks and rates of their own": {
        "optimizer": {**LEARNING, "text_encoder_rate": 5e-3, "rates": ["*attn2*=0.5"]},
        "network": {"kind": "dora", "ranks": ["OUT*=2/1", "M00=0"], "module_dropout": 0.3},
    },
    "loha": {
        "optimizer": {"kind": "adafactor", **LEARNING},
        "network": {"kind": "loha", "targets": ["to_q", "conv"]},
    },
    "lokr": {
        "optimizer": LEARNING, "training": {"ema": 0.9},
        "network": {"kind": "lokr", "targets": ["to_q", "conv"], "factor": 4},
    },
    "schedule-free, checkpointing, wildcards, a density": {
        "optimizer": {"kind": "schedule_free", **LEARNING},
        "training": {"checkpointing": True},
        "dataset": {"wildcards": True, "clip_skip": 2, "windows": 2, "alpha_mask": True},
        "noise": {"density": "logit_normal"},
        "loss": {"preservation": 0.5, "class_caption": "a thing", "unmasked_weight": 0.5},
    },
    "a base in 8 bits": {
        "base": {"quantize": "fp8"}, "optimizer": LEARNING, "training": {"checkpointing": True},
        "network": {"targets": ["to_q", "conv"]},
    },
    "crops and colours, repeats": {
        "optimizer": LEARNING, "training": {"max_steps": 14},
        "dataset": {"random_crop": True, "color_jitter": 0.2, "versions": 3, "repeats": 2,
                    "alpha_mask": True},
    },
    "text encoder, flat": {"optimizer": {**LEARNING, "text_encoder_rate": 5e-3}},
}  # fmt: skip


class LeaveAt:
    """Commands that suspend the run once ``told`` has a checkpoint of step 3."""

    def __init__(self, told: list[pipe.Report], leave: bool) -> None:
        self.told, self.leave = told, leave

    def take(self, wait: float | None) -> pipe.Command | None:
        del wait
        if self.leave and any(isinstance(one, pipe.CheckpointSaved) for one in self.told):
            self.leave = False
            return pipe.Steer(run="r1", action="suspend")
        return None

    def put_off(self, command: pipe.Command) -> None:
        raise AssertionError(command)

    def leaving(self, run: str) -> bool:
        del run
        return False


@pytest.fixture(scope="module")
def studio() -> Studio:
    torch.set_num_threads(1)
    return Studio(torch.device("cpu"), lambda report: None, lambda job: False)


def _run(order: pipe.Train, studio: Studio, leave: bool = False) -> list[pipe.Report]:
    told: list[pipe.Report] = []
    run(order, studio, LeaveAt(told, leave), told.append)
    assert isinstance(told[-1], pipe.Finished), told[-1]
    assert told[-1].outcome == ("suspended" if leave else "finished")
    return told


def _prepared(folder: Path, base_path: Path, sections: dict[str, Any]) -> pipe.Train:
    frozen = work.pictures(folder.parent / "pictures", 4)
    sections = {name: dict(values) for name, values in sections.items()}
    network = {"rank": 4, "alpha": 2.0} | sections.pop("network", {})
    training = {"max_steps": 6} | sections.pop("training", {})
    return work.prepare(
        folder, base_path, frozen, network=network, training=training,
        save={"every_steps": 3}, **sections,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_resumed_is_unbroken(name: str, tmp_path: Path, base_path: Path, studio: Studio) -> None:
    unbroken = _prepared(tmp_path / "unbroken", base_path, CASES[name])
    _run(unbroken, studio)
    broken = _prepared(tmp_path / "broken", base_path, CASES[name])
    _run(broken, studio, leave=True)
    resumed = _run(broken, studio)
    (taken_up,) = (one for one in resumed if isinstance(one, pipe.Resumed))
    assert (taken_up.step, taken_up.identical) == (3, True)
    assert work.content(broken) == work.content(unbroken)
    early, _ = work.content(unbroken, "things-step000003")
    assert early != work.content(unbroken)[0]


def test_the_average_is_sampled_and_kept_and_training_goes_on_without_it(
    tmp_path: Path, base_path: Path, studio: Studio
) -> None:
    results = []
    for number, (ema, prompts) in enumerate([(0.9, []), (0.9, ["a"]), (0.0, ["a"])]):
        sections = {
            "optimizer": LEARNING, "training": {"ema": ema},
            "sample": {"prompts": prompts, "every_steps": 2, "steps": 2},
        }  # fmt: skip
        order = _prepared(tmp_path / f"run{number}", base_path, sections)
        _run(order, studio)
        sample = Path(order.run_dir) / "samples" / "step000004_00.png"
        results.append((work.content(order), sample.read_bytes() if prompts else b""))
    (without, _), (averaged, of_average), (plain, of_plain) = results
    assert without[0] == averaged[0]  # sampling the average leaves the training alone
    assert averaged[0] != plain[0] and of_average != of_plain


def test_a_run_begins_from_a_lora_once(tmp_path: Path, base_path: Path, studio: Studio) -> None:
    source = _prepared(tmp_path / "source", base_path, {"optimizer": LEARNING})
    _run(source, studio)
    start = tmp_path / "start.safetensors"
    shutil.copy(Path(source.run_dir) / "lora" / "things.safetensors", start)
    network = {"start": str(start)}
    order = _prepared(tmp_path / "run", base_path, {"optimizer": LEARNING, "network": network})
    _run(order, studio, leave=True)
    start.unlink()  # what was learnt from it is in the run's own state
    _run(order, studio)
    assert work.content(order)[0] != work.content(source)[0]
    missing = _prepared(tmp_path / "missing", base_path, {"network": network})
    told: list[pipe.Report] = []
    run(missing, studio, LeaveAt(told, False), told.append)
    failed = told[-1]
    assert isinstance(failed, pipe.RunFailed) and str(start) in failed.failure.message


def test_the_file_tells_other_tools_what_was_trained(
    tmp_path: Path, base_path: Path, studio: Studio
) -> None:
    order = _prepared(
        tmp_path / "run", base_path,
        {
            "optimizer": {**LEARNING, "kind": "lion", "text_encoder_rate": 5e-3},
            "network": {"targets": ["to_q", "conv"], "conv_rank": 2},
            "training": {"accumulation": 2}, "loss": {"weighting": "min_snr"},
            "noise": {"offset": 0.05},
        },
    )  # fmt: skip
    _run(order, studio)
    _, metadata = work.content(order)
    assert metadata["ss_optimizer"] == "pytorch_optimizer.Lion"
    assert metadata["ss_text_encoder_lr"] == "0.005"
    assert metadata["ss_gradient_accumulation_steps"] == "2"
    assert metadata["ss_min_snr_gamma"] == "5.0" and metadata["ss_noise_offset"] == "0.05"
    assert '"conv_dim": 2' in metadata["ss_network_args"]
