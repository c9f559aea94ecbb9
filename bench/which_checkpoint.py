"""How good the recommended checkpoint is: recipes trained on the starter, every checkpoint judged.

    python -m bench.which_checkpoint --out FOLDER [--recipes calm few-hot] [--pictures 600]

U is the harmonic mean of four shares, by the starter's own judge: the creature is there where it
was asked for; colour and background are as asked; it is not there where something else was asked
for; the picture is no copy of a training picture. The best checkpoint is chosen by U on half of the
seeds and scored on the other half, both ways round; the regret of what is taken is how far its U is
below that. Everything is kept in FOLDER as it is made: given up or killed, it goes on where it was.
Every checkpoint has a round of pictures before any has more. One JSON object at the end. With 600
pictures a checkpoint all ten recipes take seven hours of one core.
"""

from __future__ import annotations

import lora_daemon.engine  # noqa: F401  first: it settles how OpenMP's threads wait

# isort: split
import argparse
import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image

from bench.pairs.painting import BATCH, CFG, SAMPLER, STEPS, folded
from lora_daemon import pipe
from lora_daemon.engine import device, lora_file
from lora_daemon.engine.bases import Base, best_device, load
from lora_daemon.engine.generate import paint
from lora_daemon.engine.measuring import Measurer
from lora_daemon.engine.mix import Mix, Strength
from lora_daemon.engine.run import run
from lora_daemon.engine.studio import Studio
from lora_daemon.held_out import split
from lora_daemon.measurements import Measurable, Record, measurements, plan_of
from lora_daemon.recommending import BASE, judge
from lora_daemon.starter import base_dir, world
from lora_daemon.starter.classifiers import Judge
from lora_daemon.starter.datasets import write_creatures
from lora_daemon.starter.evaluate import asked_creatures, asked_held_out
from shared import recipe as recipes
from shared.pictures import PictureSpec

# name: (pictures, rank, learning rate, steps, schedule). Fixed before anything was measured.
RECIPES: dict[str, tuple[int, int, float, int, str]] = {
    "demo": (120, 32, 2e-3, 800, "cosine"),
    "calm": (120, 8, 1e-3, 400, "constant"),
    "short": (60, 16, 2e-3, 160, "constant"),
    "few": (24, 16, 2e-3, 800, "constant"),
    "few-calm": (24, 8, 5e-4, 800, "constant"),
    "few-hot": (16, 32, 6e-3, 480, "constant"),
    "hot": (60, 32, 8e-3, 480, "constant"),
    "hot-cosine": (60, 32, 8e-3, 480, "cosine"),
    "tiny-set": (14, 16, 4e-3, 640, "constant"),
    "slow": (120, 4, 3e-4, 800, "constant"),
}
CHECKPOINTS = 8
UNRELATED = ["a red box in a meadow", "a blue fish by the sea", "a yellow star at night"]
ROUND = 120  # pictures that every checkpoint is given before any is given more


class Nobody:
    """No commands."""

    def take(self, wait: float | None) -> pipe.Command | None:
        return None

    def put_off(self, command: pipe.Command) -> None:
        del command

    def leaving(self, run: str) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--pictures", type=int, default=600, help="painted of each checkpoint")
    parser.add_argument("--known", action="store_true", help="only sum up what is there")
    options = parser.parse_args()
    device.use_threads()
    device.settle()
    told = []
    if not options.known:
        base = load(base_dir(), best_device(), "fp32")
        for number in range(ROUND, options.pictures + ROUND, ROUND):
            for name in options.recipes:
                campaign(base, options.out / name, name, min(number, options.pictures))
    for name in options.recipes:
        if (found := summed_up(options.out / name)) is not None:
            told.append({"recipe": name, **found})
    good = sum(one["regret"] <= 0.03 for one in told)
    means = {
        key: round(statistics.fmean(one[key] for one in told), 4)
        for key in ("regret", "regret_last", "regret_60")
        if told
    }
    print(json.dumps({"runs": told, "regret_at_most_0.03": good, "of": len(told), "mean": means}))


def campaign(base: Base, folder: Path, name: str, pictures: int) -> None:
    """Whatever is missing of one recipe."""
    freeze, recipe = prepared(folder, name, RECIPES[name], sorted(RECIPES).index(name) + 70)
    trained(base, folder, name)
    plan = plan_of(recipe, freeze)
    measurer = Measurer(base)
    for one in candidates(folder):
        path = folder / f"measured-{one.step}.json"
        if not path.exists():
            record = measured(base, measurer, folder, one, plan)
            path.write_bytes(msgspec.json.encode(record))
        painted(base, folder, one, freeze, pictures)


def trained(base: Base, folder: Path, name: str) -> None:
    """Train it, if it is not."""
    if (folder / "done").exists():
        return
    order = pipe.Train(run=name, run_dir=str(folder), cache_dir=str(folder / "cache"))
    failures: list[Any] = []

    def tell(report: pipe.Report) -> None:
        if isinstance(report, pipe.RunFailed):
            failures.append(report.failure)

    run(order, Studio(base.device, tell, lambda _: False), Nobody(), tell)
    if failures:
        raise SystemExit(f"{name}: {failures[0].message}")
    (folder / "done").touch()


def prepared(
    folder: Path, name: str, row: tuple[int, int, float, int, str], seed: int, batch: int = 4
) -> tuple[pipe.Freeze, recipes.Recipe]:
    """A run's folder. ``row``: as in ``RECIPES``; ``seed``: of its pictures."""
    number, rank, rate, steps, schedule = row
    data = folder / "pictures"
    if not data.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        write_creatures(data, number, seed=seed)
    frozen = [
        pipe.FrozenPicture(
            item=path.stem, path=str(path.absolute()), caption=path.with_suffix(".txt").read_text(),
            content=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(data.glob("*.png"))
    ]  # fmt: skip
    tree = {
        "dataset": {"name": name, "resolution": 128},
        "network": {"rank": rank, "alpha": float(rank)},
        "optimizer": {"learning_rate": rate},
        "schedule": {"kind": schedule, "warmup_steps": 20},
        "training": {
            "batch_size": batch,
            "epochs": 1000,
            "max_steps": steps,
            "precision": "fp32",
        },
        "save": {"every_steps": steps // CHECKPOINTS},
        "evaluation": {"held_out": 0.2, "unrelated": UNRELATED},
        "output": {"name": name, "trigger": "creature"},
    }
    recipe = recipes.convert(tree)
    train, kept = split(frozen, recipes.held_out_count(recipe, len(frozen)))
    freeze = pipe.Freeze(
        run=name, name=name, base="starter", base_path=str(base_dir()), dataset=name,
        pictures=train, skipped=[], queued_at=0.0, held_out=kept,
    )  # fmt: skip
    (folder / "recipe.toml").write_text(recipes.dump(recipe))
    (folder / "freeze.json").write_bytes(msgspec.json.encode(freeze))
    return freeze, recipe


def candidates(folder: Path) -> list[Measurable]:
    files = sorted((folder / "lora").glob("*-step*.safetensors"))
    steps = [(int(file.stem[-6:]), file) for file in files]
    return [Measurable(BASE, 0), *(Measurable(f"step {s}", s, (f,)) for s, f in steps)]


def measured(
    base: Base, measurer: Measurer, folder: Path, one: Measurable, plan: Any
) -> Record:  # fmt: skip
    """As the daemon has it measured, less what the rule does not use."""
    mix = Mix(base, [lora_file.load(file, base).modules for file in one.files])
    rows = {}
    for part in ("held", "train"):
        job = pipe.Measure(
            job="", what="loss", base_path="", loras=[], cache_dir=str(folder / "cache"),
            resolution=plan.resolution, seed=plan.seed, timesteps=plan.timesteps,
            pictures=getattr(plan, part),
        )  # fmt: skip
        rows[part] = measurer.rows(job, mix.on, lambda: None)[0]
    return Record(plan=plan.digest, files=[], rows=rows)


def painted(base: Base, folder: Path, one: Measurable, freeze: pipe.Freeze, number: int) -> None:
    """Judged pictures of a checkpoint, one line each, in portions, up to so many."""
    if not one.step:
        return
    path = folder / f"judged-{one.step}.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    if done >= number:
        return
    half = -(-number // 2)
    both = zip(asked_creatures(half, seed=4), asked_held_out(half, seed=4), strict=True)
    asked = [wanted for pair in both for wanted in pair]  # in turns
    look, near = Judge.load(), nearness([Path(p.path) for p in freeze.pictures])
    mix = Mix(base, [lora_file.load(file, base).modules for file in one.files])
    mix.set([Strength(1.0)])
    while done < number:
        group = asked[done : min(done + BATCH[base.device.type], number)]
        specs = [
            PictureSpec(
                prompt=world.prompt(wanted), seed=5000 + done + place, sampler=SAMPLER,
                steps=STEPS, cfg=CFG, width=128, height=128,
            )
            for place, wanted in enumerate(group)
        ]  # fmt: skip
        with folded(mix):
            pictures = paint(base, specs, lambda _: None)
        with path.open("a") as file:
            for place, (wanted, seen) in enumerate(zip(group, look(pictures), strict=True)):
                concept = wanted[0] == "creature"
                row = {
                    "concept": concept, "creature": seen.creature,
                    "obeys": (seen.colour, seen.background) == wanted[1:],
                    "copy": concept and near(pictures[place]), "half": (done + place) // 2 % 2,
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
        done += len(group)


def nearness(paths: Sequence[Path]) -> Callable[[Image.Image], bool]:
    """Whether a picture is more like some training picture than 99 % of these are like another: by
    the correlation of their pixels, 32 × 32, straight or mirrored."""

    def flat(picture: Image.Image) -> torch.Tensor:
        small = picture.convert("RGB").resize((32, 32), Image.Resampling.BOX)
        return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).float()

    straight = torch.stack([flat(Image.open(path)) for path in paths])
    mirrored = torch.stack(
        [flat(Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for path in paths]
    )
    middle = straight.mean(dim=0)
    known = torch.nn.functional.normalize(torch.cat([straight, mirrored]) - middle, dim=1)
    likeness = known[: len(paths)] @ known.t()
    own = torch.arange(len(paths))
    likeness[own, own] = likeness[own, own + len(paths)] = -1.0
    most = float(likeness.amax(dim=1).quantile(0.99))

    def near(picture: Image.Image) -> bool:
        seen = torch.nn.functional.normalize(flat(picture) - middle, dim=0)
        return bool((known @ seen).max() > most)

    return near


def summed_up(folder: Path) -> dict[str, Any] | None:
    """Regrets of one recipe; None while something is missing."""
    records = {}
    for one in candidates(folder):
        path = folder / f"measured-{one.step}.json"
        if not path.exists():
            return None
        records[one] = msgspec.json.decode(path.read_bytes(), type=Record)
    rows = {}
    for one in records:
        judged = folder / f"judged-{one.step}.jsonl"
        if one.step and not judged.exists():
            return None
        if one.step:
            rows[one.step] = [json.loads(line) for line in judged.read_text().splitlines()]
    number = min(map(len, rows.values()))
    rows = {step: found[: number - number % 4] for step, found in rows.items()}
    told = judge(measurements(records))
    taken = next(one.step for one in records if one.name == told.recommended)
    steps = sorted(rows)
    sixty = min(steps, key=lambda step: abs(step - 0.6 * steps[-1]))
    scores = {half: {s: usefulness(rows[s], half) for s in steps} for half in (0, 1)}

    def regret(step: int) -> float:
        return statistics.fmean(
            scores[1 - half][max(steps, key=lambda s: (scores[half][s], -s))]
            - scores[1 - half][step]
            for half in (0, 1)
        )

    whole = {step: round(usefulness(rows[step], None), 4) for step in steps}
    return {
        "taken": taken, "tied": told.tied, "regret": round(regret(taken), 4),
        "regret_last": round(regret(steps[-1]), 4), "regret_60": round(regret(sixty), 4),
        "u": whole, "over_fits_by": round(max(whole.values()) - whole[steps[-1]], 4),
        "pictures": number,
    }  # fmt: skip


def usefulness(rows: Sequence[dict[str, Any]], half: int | None) -> float:
    """U of the pictures of one half of the seeds, or of all."""
    rows = [row for row in rows if half in (None, row["half"])]
    asked = [row for row in rows if row["concept"]]
    others = [row for row in rows if not row["concept"]]
    shares = [
        statistics.fmean(row["creature"] for row in asked),
        statistics.fmean(row["obeys"] for row in asked),
        statistics.fmean(not row["creature"] for row in others),
        statistics.fmean(not row["copy"] for row in asked),
    ]
    return statistics.harmonic_mean(shares) if all(shares) else 0.0


if __name__ == "__main__":
    main()
