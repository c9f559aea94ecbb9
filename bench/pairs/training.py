"""The campaign's LoRAs, trained as the product trains them, each in a folder of its own."""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from bench.pairs.plan import Taught
from bench.which_checkpoint import Nobody
from lora_daemon import pipe
from lora_daemon.engine.bases import best_device
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from lora_daemon.starter import base_dir, world
from shared import recipe as recipes


def file_of(work: Path, taught: Taught) -> Path:
    """Where its LoRA is or will be; another recipe is another folder."""
    decides = hashlib.sha256(msgspec.json.encode(taught)).hexdigest()[:8]
    return work / "loras" / f"{taught.name}-{decides}" / "lora" / f"{taught.name}.safetensors"


def train(work: Path, taught: Taught) -> Path:
    """The LoRA's file; trained, or trained on, if it is not there. Waits for a process that is at
    it."""
    file = file_of(work, taught)
    folder = file.parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trained-by").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _train(folder, taught)
    return file


def _train(folder: Path, taught: Taught) -> None:
    _prepare(folder, taught)
    failures: list[Any] = []

    def tell(report: pipe.Report) -> None:
        if isinstance(report, pipe.RunFailed):
            failures.append(report.failure)

    order = pipe.Train(run=taught.name, run_dir=str(folder), cache_dir=str(folder / "cache"))
    run(order, Studio(best_device(), tell, lambda _: False), Nobody(), tell)
    if failures:
        raise SystemExit(f"{taught.name}: {failures[0].message}")
    (folder / "done").touch()


def _prepare(folder: Path, taught: Taught) -> None:
    frozen = []
    data = folder / "pictures"
    data.mkdir(parents=True, exist_ok=True)
    content, style = (taught.shows, None) if taught.content else (None, taught.shows)
    seed = int(hashlib.sha256(taught.name.encode()).hexdigest()[:6], 16)
    for number, scene in enumerate(world.scenes(taught.pictures, seed, content=content, crowd=0)):
        path = (data / f"{number:03d}.png").absolute()
        world.draw(scene, style).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        words = world.caption(scene, style)
        frozen.append(
            pipe.FrozenPicture(item=path.stem, path=str(path), caption=words, content=digest)
        )
    recipe = recipes.convert(
        {
            "dataset": {"name": taught.shows, "resolution": 128},
            "network": {
                "kind": taught.kind, "rank": taught.rank, "alpha": float(taught.rank),
                "targets": list(taught.targets),
            },
            "optimizer": {"learning_rate": taught.rate, "text_encoder_rate": taught.text_rate},
            "schedule": {"kind": "cosine", "warmup_steps": 20},
            "loss": {"weighting": "min_snr"},
            "training": {
                "batch_size": 4, "epochs": 1000, "max_steps": taught.steps, "precision": "fp32",
            },
            "output": {"name": taught.name, "trigger": taught.shows},
        }
    )  # fmt: skip
    freeze = pipe.Freeze(
        run=taught.name, name=taught.name, base="starter", base_path=str(base_dir()),
        dataset=taught.shows, pictures=frozen, skipped=[], queued_at=0.0,
    )  # fmt: skip
    (folder / "recipe.toml").write_text(recipes.dump(recipe))
    (folder / "freeze.json").write_bytes(msgspec.json.encode(freeze))
