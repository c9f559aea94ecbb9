"""Effects on the noise prediction, probed: against the same predictions made one by one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from lora_daemon import pipe
from lora_daemon.engine import effects, lora_file, studio, weighing
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import conditioning, guided, paint, paint_latents
from lora_daemon.engine.lora_read import raw
from lora_daemon.engine.mix import Mix, Strength, applied, strength
from lora_daemon.engine.randomness import generator
from lora_daemon.engine.samplers import scheduler
from lora_daemon.engine.studio import Studio
from shared import probes, regions
from shared.errors import Code
from shared.pictures import LoraUse, PictureSpec
from shared.safetensors_file import write
from tests.engine.test_inputs import QUERY, TEXT, random_lora

SPEC = PictureSpec(prompt="a cat", negative="b", steps=4, sampler="DDIM", cfg=3, seed=5)
ON, OFF = Strength(0.7), Strength(0.0)


@pytest.fixture
def files(base: Base, tmp_path: Path) -> list[Path]:
    """Two LoRAs that meet in a layer; one changes what prompts say as well."""
    return [
        random_lora(tmp_path / "one.safetensors", base, 1, [QUERY, TEXT]),
        random_lora(tmp_path / "two.safetensors", base, 2, [QUERY]),
    ]


def test_they_are_the_predictions_less_the_plain_ones(base: Base, files: list[Path]) -> None:
    placed = [lora_file.load(file, base).modules for file in files]
    rows = [[ON, OFF], [OFF, ON], [ON, ON], [OFF, OFF]]
    mix = Mix(base, placed)
    found = effects.inner_products(base, mix, rows, SPEC, 2, lambda: None)

    steps = scheduler("DDIM", base.scheduler_config)
    steps.set_timesteps(4)
    shape = (1, 4, base.unet.config.sample_size, base.unet.config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(base.device)
    with torch.no_grad():
        text = conditioning(base, [SPEC], guided=True)
        for timestep in steps.timesteps[:2]:
            latents = steps.step(
                guided(base, latents, timestep, text, 3.0), timestep, latents
            ).prev_sample
        plain = guided(base, latents, steps.timesteps[2], text, 3.0)
        deltas = []
        for row in rows:
            with applied(base, [(p, s) for p, s in zip(placed, row, strict=True)]):
                said = conditioning(base, [SPEC], guided=True)
                now = guided(base, latents, steps.timesteps[2], said, 3.0)
            deltas.append((now - plain).double().flatten().cpu())
    kept = [float(base.alphas_cumprod[t]) for t in steps.timesteps[2:4]]
    levels = [((1 - one) / one) ** 0.5 for one in kept]
    together = torch.stack(deltas) * (levels[0] - levels[1])
    wanted = together @ together.t()
    assert not found[3].any()  # nothing on: nothing changes
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6 * float(wanted.max()))
    last = effects.inner_products(base, mix, [[ON, OFF]], SPEC, 3, lambda: None)
    assert 0 < float(last) < float(found[0, 0])  # the last step moves the picture least
    alone = probes.survival([found.tolist()], 0, 1)
    assert alone == pytest.approx([1.0])


def test_a_lora_takes_part_in_its_part_of_the_steps(base: Base, files: list[Path]) -> None:
    """What is on the base at each step; the prompt is read anew where that changes what it says."""
    placed = [lora_file.load(file, base).modules for file in files]
    mix = Mix(base, placed)
    uses = [
        pipe.LoraFile(name="one", path="", weight=0.5, end=0.5),
        pipe.LoraFile(name="two", path="", weight=0.8, begin=0.25),
    ]
    turn = studio._turn(mix, uses, SPEC.steps)
    seen: list[list[bool]] = []

    def weights() -> list[bool]:
        site = next(one for one in mix.sites if len(set(one.slots)) > 1)
        return [bool(one) for one in (site.v[0], site.v[-1])]

    with mix.on():
        first = paint(base, [SPEC], lambda _: seen.append(weights()), turn=turn)
    assert seen == [[True, False], [True, True], [False, True], [False, True]]
    again = [turn(step).anew for step in range(4)]
    assert again == [True, True, True, False]  # the text is read again at each change
    other = [pipe.LoraFile(name="one", path="", weight=0.5), uses[1]]
    with mix.on():
        second = paint(base, [SPEC], lambda _: None, turn=studio._turn(mix, other, SPEC.steps))
    assert first[0].tobytes() != second[0].tobytes()
    mix.set([Strength(0.5), Strength(0.8)])
    always = [pipe.LoraFile(name=use.name, path="", weight=use.weight) for use in uses]
    plain = studio._turn(mix, always, SPEC.steps)
    assert not any(plain(step).anew for step in range(4))  # no schedule: nothing is touched


@pytest.mark.parametrize(
    ("cfg", "where", "negative"),
    [(3.0, "", "b"), (1.0, "", "b"), (3.0, "left", "b"), (3.0, "", "b " * 100)],
)
def test_a_step_goes_further_along_what_a_lora_adds(
    cfg: float, where: str, negative: str, base: Base, files: list[Path]
) -> None:
    """ε + Σ g (ε(mix) − ε(mix without it)), with the prompt, which is read without it as well; a
    LoRA that takes no part in a step guides none."""
    placed = [lora_file.load(file, base).modules for file in files]
    region = regions.read(where) if where else None
    uses = [
        pipe.LoraFile(name="one", path="", weight=0.7, guidance=2.0, region=region),
        pipe.LoraFile(name="two", path="", weight=0.5, end=0.5, guidance=0.5),
    ]
    spec = replace(SPEC, cfg=cfg, negative=negative)
    steps = scheduler("DDIM", base.scheduler_config)
    steps.set_timesteps(4)
    shape = (1, 4, base.unet.config.sample_size, base.unet.config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(base.device)

    def predicted(weights: list[float], timestep: torch.Tensor, scale: float) -> torch.Tensor:
        first = Strength(weights[0], region=region) if weights[0] else Strength(0.0)
        with applied(base, list(zip(placed, (first, weights[1]), strict=True))), torch.no_grad():
            text = conditioning(base, [spec], guided=cfg > 1)
            return guided(base, latents, timestep, text if scale > 1 else text[-1:], scale)

    for number, timestep in enumerate(steps.timesteps):
        second = 0.5 if number < 2 else 0.0
        prompted = predicted([0.7, second], timestep, 1.0)
        found = predicted([0.7, second], timestep, cfg)
        found = found + 2.0 * (prompted - predicted([0.0, second], timestep, 1.0))
        found = found + 0.5 * (prompted - predicted([0.7, 0.0], timestep, 1.0))
        latents = steps.step(found, timestep, latents).prev_sample

    mix = Mix(base, placed)
    mix.set([strength(use) for use in uses])
    before = [site.v.clone() for site in mix.sites]
    turn = studio._turn(mix, uses, 4)
    with mix.on():
        made = paint_latents(base, [spec], lambda _: None, turn=turn)
        plain = paint_latents(base, [spec], lambda _: None)
    assert torch.allclose(made, latents, atol=1e-4 * float(latents.abs().max()))
    assert (made - plain).norm() > 0.02 * plain.norm()
    turn(0)
    assert all(torch.equal(one, site.v) for one, site in zip(before, mix.sites, strict=True))


def test_the_studio_answers_probes_and_measurements(
    base: Base, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(studio, "GOES_ON", 0.0)
    desk = Studio(torch.device("cpu"), told.append, lambda job: job == "unwanted")
    loras = [pipe.LoraFile(name=f.stem, path=str(f), weight=0.0) for f in files]
    rows = [[LoraUse(lora="one", weight=0.7), LoraUse(lora="two", weight=weight)]
            for weight in (0.0, 0.7)]  # fmt: skip
    probe = pipe.Probe(job="j", spec=SPEC, step=1, base_path="", loras=loras, rows=rows)
    desk.serve(probe, lambda: base)
    wanted = effects.inner_products(
        base, Mix(base, [lora_file.load(file, base).modules for file in files]),
        [[ON, OFF], [ON, ON]], SPEC, 1, lambda: None,
    )  # fmt: skip
    assert torch.allclose(torch.tensor(told[-1].products, dtype=torch.float64), wanted)
    out = tmp_path / "inputs.safetensors"
    measure = pipe.Gather(
        job="m", specs=[SPEC], base_path="", loras=[str(file) for file in files], out=str(out)
    )
    desk.serve(measure, lambda: base)
    assert out.exists() and told[-1] == pipe.Gathered(job="m", modules=2, left_out=[])
    assert told.count(pipe.GoesOn(job="m")) == SPEC.steps  # or it would be taken for hung
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 20)
    for order, code in (
        (pipe.Gather(job="b", specs=[SPEC], base_path="", loras=[str(broken)], out=str(out)),
         Code.INVALID_FILE),
        (pipe.Probe(job="unwanted", spec=SPEC, step=1, base_path="", loras=loras, rows=rows),
         Code.CANCELLED),
    ):  # fmt: skip
        desk.serve(order, lambda: base)
        assert told[-1].job == order.job and told[-1].failure.code == code
    assert all(a is not b for a, b in pairwise(told))


def test_a_dora_is_not_put_on_top_of_others(base: Base, files: list[Path], tmp_path: Path) -> None:
    """A distilled one for previews: its share of the output would be one of what others added."""
    tensors = load_file(files[0])
    name = next(key for key in tensors if key.endswith(".lora_up.weight")).partition(".")[0]
    path = tmp_path / "dora.safetensors"
    scale = torch.ones(len(tensors[f"{name}.lora_up.weight"]), 1)
    save_file(tensors | {f"{name}.dora_scale": scale}, path)
    told: list[Any] = []
    desk = Studio(torch.device("cpu"), told.append, lambda _: False)
    order = pipe.Paint(
        job="p", spec=replace(SPEC, loras=[]), base_path="", loras=[], out=str(tmp_path / "p.png"),
        distilled=pipe.LoraFile(name="dora", path=str(path), weight=1.0),
    )  # fmt: skip
    desk.serve(order, lambda: base)
    assert told[-1].failure.code == Code.INVALID_FILE and "is a DoRA" in told[-1].failure.message


def test_prompts_of_probes_and_weights_may_name_textual_inversions(
    base: Base, files: list[Path], tmp_path: Path
) -> None:
    told: list[Any] = []
    desk = Studio(torch.device("cpu"), told.append, lambda _: False)
    word = tmp_path / "zig.safetensors"
    write(word, {"emb_params": raw(torch.randn(2, 32))}, {})
    spec = replace(SPEC, prompt="a zig cat", steps=2)
    loras = [pipe.LoraFile(name=f.stem, path=str(f), weight=1.0) for f in files]
    rows = [[LoraUse(lora=f.stem, weight=1.0) for f in files]]
    for known in ([], [("zig", str(word))]):
        probe = pipe.Probe(
            job="j", spec=spec, step=1, base_path="", loras=loras, rows=rows, embeddings=known
        )
        weigh = pipe.Weigh(
            job="w", spec=spec, base_path="", lora=loras[0], embeddings=known
        )  # fmt: skip
        desk.serve(probe, lambda: base)
        desk.serve(weigh, lambda: base)
    (plain, faint), (named, much) = told[:2], told[2:]
    assert plain.products != named.products and faint.effect != much.effect
    assert not base.learnt


def test_the_effect_in_a_picture_is_what_the_lora_takes_off_the_error(
    base: Base, files: list[Path]
) -> None:
    """By the same predictions made one by one."""
    modules = lora_file.load(files[1], base).modules
    mix, spec = Mix(base, [modules]), replace(SPEC, steps=2)
    found = weighing.effect(mix, Strength(0.7), spec, lambda: None)
    with torch.no_grad(), applied(base, [(modules, 0.7)]):
        latents = paint_latents(base, [spec], lambda _: None)
    shares = []
    for stretch in range(weighing.STRATA):
        at = int((stretch + 0.5) * 1000 / weighing.STRATA)
        draw = generator(spec.seed, "weighed", stretch)
        noise = torch.randn(latents.shape, generator=draw).to(latents)
        kept = float(base.alphas_cumprod[at])
        errors = []
        for weight in (0.0, 1.0):
            error = 0.0
            with torch.no_grad(), applied(base, [(modules, weight)]):
                text = conditioning(base, [spec], guided=False)
                for own in (noise, -noise):
                    seen = kept**0.5 * latents + (1 - kept) ** 0.5 * own
                    predicted = base.denoise(seen, torch.tensor(at, device=base.device), text)
                    error += float((predicted - own).square().sum())
            errors.append(error)
        shares.append((errors[0] - errors[1]) / errors[0])
    assert found == pytest.approx(sum(shares) / len(shares), abs=1e-4)
