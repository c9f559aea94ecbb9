"""Each option of the recipe changes what it should, and nothing it should not."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_daemon.engine import bases, lora_file, noises, optimizers, resume, samplers
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.captions import shown
from lora_daemon.engine.mix import applied
from lora_daemon.engine.objectives import objective
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.randomness import generator
from lora_daemon.engine.train import train
from lora_daemon.schedules import learning_rate
from shared.errors import Code, LoraError
from shared.recipe import Loss, Network, Noise, Recipe, convert
from shared.recipe_schema import Dataset
from shared.wildcards import read_wildcards
from tests.engine.test_train import Steps, fed

ALL = ["to_q", "to_k", "to_v", "to_out.0", "ff", "proj", "conv"]


def adapted(base: Base, recipe: Recipe) -> Adapter:
    with_text = recipe.optimizer.text_encoder_rate > 0
    rates = recipe.optimizer.rates
    return Adapter(base, recipe.network, 0, with_text, recipe.training.ema, rates)


def trained(base: Base, tmp_path: Path, steps: int, **sections: Any) -> Adapter:
    """An adapter after some steps, taken off the base again."""
    recipe = convert(sections)
    adapter = adapted(base, recipe)
    try:
        optimizer = optimizer_for(adapter, recipe.optimizer)
        train(recipe, base, adapter, optimizer, fed(base, tmp_path, recipe, 4), Steps(steps))  # type: ignore[arg-type]
    finally:
        adapter.remove()
    return adapter


# ── schedules ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "cosine_with_restarts", "cycles": 2}, [1, 0.5, 1, 0.5]),
        ({"kind": "polynomial", "power": 2.0}, [1, 0.5625, 0.25, 0.0625]),
        ({"kind": "rex"}, [1, 0.857142, 0.666667, 0.4]),
        ({"kind": "linear", "floor": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"kind": "cosine_with_restarts", "cycles": 1, "warmup_steps": 2}, [0.5, 1, 1, 0.5]),
    ],
)
def test_schedules(schedule: dict[str, Any], expected: list[float]) -> None:
    settings = convert({"schedule": schedule}).schedule
    rates = [learning_rate(settings, 1.0, step, 4) for step in range(4)]
    assert rates == pytest.approx(expected, abs=1e-5)


# ── losses ──────────────────────────────────────────────────────────────────────────────────────


def _loss(base: Base, t: int, error: float = 1.0, **settings: Any) -> float:
    """The loss where each number is off by ``error`` at timestep ``t``."""
    target = torch.zeros(1, 4, 8, 8)
    one = objective(Loss(**settings), base)(target + error, target, torch.tensor([t]), None)
    return float(one)


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_weightings_are_the_papers(base: Base, t: int) -> None:
    velocity = dataclasses.replace(base, objective="v_prediction")
    alpha = float(base.alphas_cumprod[t])
    snr = alpha / (1 - alpha)
    assert _loss(base, t, weighting="min_snr") == pytest.approx(min(snr, 5) / snr, rel=1e-4)
    assert _loss(velocity, t, weighting="min_snr", min_snr_gamma=1.0) == pytest.approx(
        min(snr, 1) / (snr + 1), rel=1e-4
    )
    assert _loss(base, t, weighting="debiased") == pytest.approx(
        1 / math.sqrt(min(snr, 1000)), rel=1e-4
    )
    assert _loss(velocity, t, weighting="debiased") == pytest.approx(
        1 / (min(snr, 1000) + 1), rel=1e-4
    )


def test_weightings_stay_finite_where_the_terminal_step_has_no_signal(base: Base) -> None:
    alphas = torch.cat([base.alphas_cumprod[:-1], torch.zeros(1)])
    for predicts in ("epsilon", "v_prediction"):
        terminal = dataclasses.replace(base, alphas_cumprod=alphas, objective=predicts)
        for weighting in ("min_snr", "debiased"):
            for kind in ("l2", "huber"):
                assert math.isfinite(_loss(terminal, 999, weighting=weighting, kind=kind))


def test_huber_is_the_square_near_zero_and_the_size_far_off(base: Base) -> None:
    constant: dict[str, Any] = {"huber_schedule": "constant", "huber_c": 0.1}
    assert _loss(base, 0, 0.01, kind="huber", **constant) == pytest.approx(1e-4, rel=0.01)
    assert _loss(base, 0, 10.0, kind="huber", **constant) == pytest.approx(2.0, rel=0.02)
    assert _loss(base, 0, 10.0, kind="smooth_l1", **constant) == pytest.approx(20, rel=0.02)
    assert _loss(base, 0, 10.0, kind="l1") == pytest.approx(10.0)
    for schedule in ("snr", "exponential"):  # c from near 1, with little noise, to huber_c
        bends = [
            _loss(base, t, 1000.0, kind="huber", huber_schedule=schedule) / 2000
            for t in (0, 300, 999)
        ]
        assert 0.9 < bends[0] <= 1 and bends[0] > bends[1] > bends[2] > 0.09, schedule


# ── noise ───────────────────────────────────────────────────────────────────────────────────────


def _noise(**settings: Any) -> Tensor:
    shape = torch.Size((4, 16, 16))
    return torch.stack(
        [noises.draw_noise(Noise(**settings), shape, generator(0, "n", n)) for n in range(200)]
    )


def test_noise_offset_moves_whole_channels() -> None:
    plain, moved = _noise(), _noise(offset=0.5)
    assert float(plain.mean((2, 3)).std()) == pytest.approx(1 / 16, rel=0.1)
    assert float(moved.mean((2, 3)).std()) == pytest.approx(math.hypot(0.5, 1 / 16), rel=0.1)
    difference = moved - plain
    assert torch.allclose(difference, difference[..., :1, :1].expand_as(difference), atol=1e-5)


def test_multires_noise_has_more_of_the_low_frequencies_and_unit_deviation() -> None:
    weak, strong = (_noise(multires_iterations=6, multires_discount=d) for d in (0.1, 0.6))
    for noise in (weak, strong):
        assert torch.allclose(noise.std((1, 2, 3)), torch.ones(200), atol=1e-4)
    low = [float(noise.mean((2, 3)).std()) for noise in (_noise(), weak, strong)]
    assert low[0] < low[1] < low[2] and low[2] > 3 * low[0]


def test_a_perturbed_input_has_more_noise_than_is_asked_back(base: Base, tmp_path: Path) -> None:
    (batch,) = fed(base, tmp_path, convert({"noise": {"input_perturbation": 0.5}}), 4).batches(0)
    assert 0.3 < float((batch.mixed - batch.noise).std()) < 0.7
    (plain,) = fed(base, tmp_path, convert({}), 4).batches(0)
    assert plain.mixed is plain.noise and torch.equal(plain.noise, batch.noise)


def test_a_schedule_that_ends_in_noise_is_for_bases_that_predict_v(base: Base) -> None:
    with pytest.raises(LoraError, match="needs a base that predicts v") as caught:
        bases.ending_in_noise(base)
    assert caught.value.code is Code.INVALID_RECIPE
    velocity = bases.ending_in_noise(dataclasses.replace(base, objective="v_prediction"))
    assert velocity.zero_snr and not base.zero_snr and velocity.unet is base.unet
    painting = samplers.scheduler("Euler", velocity.scheduler_config)
    assert painting.config.rescale_betas_zero_snr and painting.config.timestep_spacing == "trailing"
    ours, before = velocity.alphas_cumprod, base.alphas_cumprod
    assert float(ours[-1]) < 1e-7 < float(before[-1]) and float(ours[0]) == pytest.approx(
        float(before[0]), abs=1e-5
    )
    assert bool((ours[1:] < ours[:-1]).all())


def test_a_density_says_which_timesteps_come_up_more_often() -> None:
    span = (100, 900)
    drawn = {}
    for mean, deviation in ((0.0, 0.3), (2.0, 0.3)):
        noise = Noise(density="logit_normal", density_mean=mean, density_deviation=deviation)
        own = [noises.draw_timestep(noise, span, generator(0, "t", n)) for n in range(400)]
        drawn[mean] = torch.cat(own)
        assert int(drawn[mean].min()) >= 100 and int(drawn[mean].max()) < 900
        middle = 100 + 800 / (1 + math.exp(-mean))
        assert float(drawn[mean].float().median()) == pytest.approx(middle, abs=12)
    assert float(drawn[0.0].float().std()) == pytest.approx(800 * 0.3 / 4, rel=0.15)


def test_a_timestep_range_is_kept_to(base: Base, tmp_path: Path) -> None:
    noise = {"min_timestep": 200, "max_timestep": 203}
    feed = fed(base, tmp_path, convert({"noise": noise, "training": {"batch_size": 4}}), 4)
    drawn = {int(t) for step in range(20) for t in next(feed.batches(step)).timesteps}
    assert drawn == {200, 201, 202}


# ── captions ────────────────────────────────────────────────────────────────────────────────────

TAGS = "ohwx, dragon, red, flying, night, castle"


def test_shuffling_keeps_the_tags_and_the_first_ones_in_place() -> None:
    settings = Dataset(shuffle_tags=True, keep_tokens=2)
    forms = {shown(TAGS, settings, 1, step, 0) for step in range(30)}
    assert len(forms) > 10
    assert all(form.startswith("ohwx, dragon, ") for form in forms)
    assert all(sorted(form.split(", ")) == sorted(TAGS.split(", ")) for form in forms)
    assert shown(TAGS, settings, 1, 7, 0) == shown(TAGS, settings, 1, 7, 0)


def test_tags_and_captions_are_dropped_as_often_as_asked() -> None:
    settings = Dataset(tag_dropout=0.25, keep_tokens=1)
    forms = [shown(TAGS, settings, 1, step, 0).split(", ") for step in range(400)]
    assert all(form[0] == "ohwx" for form in forms)
    left = sum(len(form) - 1 for form in forms) / (400 * 5)
    assert left == pytest.approx(0.75, abs=0.04)
    settings = Dataset(caption_dropout=0.2)
    forms_of_whole = [shown(TAGS, settings, 1, step, 0) for step in range(400)]
    assert set(forms_of_whole) == {TAGS, ""}
    assert forms_of_whole.count("") / 400 == pytest.approx(0.2, abs=0.06)


def test_wildcards_are_chosen_anew_and_may_hold_others() -> None:
    settings = Dataset(wildcards=True)
    files = {"colour": ["red", "{dark|light} blue"], "loop": ["__loop__"]}
    forms = [
        shown("a {big|{very |}small} __colour__ dragon", settings, 1, step, 0, files)
        for step in range(300)
    ]
    sizes, colours = ("big", "very small", "small"), ("red", "dark blue", "light blue")
    assert set(forms) == {f"a {size} {colour} dragon" for size in sizes for colour in colours}
    assert sum("big" in form for form in forms) / 300 == pytest.approx(0.5, abs=0.1)
    assert forms[7] == shown("a {big|{very |}small} __colour__ dragon", settings, 1, 7, 0, files)
    assert shown("__loop__", settings, 1, 0, 0, files) == "__loop__"  # and it ends
    assert shown("a {big|small}", Dataset(), 1, 0, 0) == "a {big|small}"
    tags = Dataset(wildcards=True, shuffle_tags=True, keep_tokens=1)
    form = shown("{ohwx|sks}, red, {a|b}, green", tags, 1, 0, 0)
    assert form.split(", ")[0] in ("ohwx", "sks") and len(form.split(", ")) == 4


def test_wildcards_by_name_are_frozen_with_the_run_or_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "colour.txt").write_text("# all\nred\n\n__shade__ blue\n")
    (tmp_path / "shade.txt").write_text("dark\nlight\n")
    (tmp_path / "none.txt").write_text("# none\n")
    found = read_wildcards(["a __colour__ thing", "plain"], str(tmp_path))
    assert found == {"colour": ["red", "__shade__ blue"], "shade": ["dark", "light"]}
    for name, words in (("other", "other.txt cannot be read"), ("none", "has no line")):
        with pytest.raises(LoraError, match=words) as caught:
            read_wildcards([f"__{name}__"], str(tmp_path))
        assert caught.value.code is Code.INVALID_RECIPE
    with pytest.raises(LoraError, match=r"dataset\.wildcard_folder is empty"):
        read_wildcards(["__colour__"], "")


def test_clip_skip_reads_an_earlier_layer(base: Base) -> None:
    (encoder,) = base.encoders
    tokens = encoder.tokenizer("a thing", padding="max_length", return_tensors="pt").input_ids
    model: Any = encoder.model
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
        for skip in (1, 2):
            norm = getattr(model, "text_model", model).final_layer_norm
            wanted = norm(states[-skip])
            ours = base.encode_text("a thing", bases.Reading(skip))
            assert torch.allclose(ours, wanted, atol=1e-6)


def test_clip_skip_beyond_the_first_layer_is_refused(base: Base) -> None:
    with pytest.raises(LoraError, match=r"clip_skip = 3, and this base's text encoder has 2"):
        base.encode_text("a thing", bases.Reading(3))


def test_long_captions_are_read_in_windows_joined_either_way(base: Base, tmp_path: Path) -> None:
    first, second = "a" * 75, "b" * 20  # the tiny tokenizer has a token a letter
    with torch.no_grad():
        apart = torch.cat([base.encode_text(first), base.encode_text(second)])
    kohya = base.encode_text(f"{first} {second}", bases.Reading(windows=2))
    webui = base.encode_text(f"{first} {second}", bases.Reading(windows=2, joined="webui"))
    assert kohya.shape == (1, 152, 32) and webui.shape == (1, 154, 32)
    assert torch.allclose(webui[0], apart.flatten(0, 1), atol=1e-5)
    assert torch.allclose(kohya[0, :76], apart[0, :76], atol=1e-5)
    assert torch.allclose(kohya[0, 76:], apart[1, 1:], atol=1e-5)
    short = base.encode_text("a thing", bases.Reading(windows=2, joined="webui"))
    assert torch.allclose(short[0, :77], base.encode_text("a thing")[0], atol=1e-5)
    assert torch.allclose(short[0, 77:], base.encode_text("")[0], atol=1e-5)
    assert base.fits("x" * 150, 2) and not base.fits("x" * 151, 2)
    feed = fed(base, tmp_path, convert({"dataset": {"windows": 2, "clip_skip": 2}}), 4)
    (batch,) = feed.batches(0)
    assert batch.text.shape == (1, 152, 32)
    assert base.denoise(batch.latents, batch.timesteps, batch.text).shape == batch.latents.shape


def test_the_model_is_shown_the_captions_form(base: Base, tmp_path: Path) -> None:
    feed = fed(base, tmp_path, convert({"dataset": {"caption_dropout": 1.0}}), 4)
    (batch,) = feed.batches(0)
    assert torch.equal(batch.text, base.encode_text(""))
    feed = fed(base, tmp_path, convert({"dataset": {"shuffle_tags": True}}), 4)
    feed.captions = [TAGS] * 4
    (batch,) = feed.batches(3)
    form = shown(TAGS, feed.dataset, feed.seed, 3, 0)
    assert form != TAGS and torch.equal(batch.text, base.encode_text(form))


# ── steps ───────────────────────────────────────────────────────────────────────────────────────


def test_accumulated_batches_are_one_larger_batch(base: Base, tmp_path: Path) -> None:
    sgd: dict[str, Any] = {"learning_rate": 1e-3, "max_grad_norm": 0.0}
    results = []
    for batch_size, accumulation in ((3, 1), (2, 2), (1, 3)):  # 4 pictures: a last step of one
        training = {"batch_size": batch_size, "accumulation": accumulation}
        recipe = convert({"training": training, "optimizer": sgd})
        feed = fed(base, tmp_path, recipe, 4)
        assert feed.steps_per_epoch == (2 if batch_size * accumulation == 3 else 1)
        adapter = adapted(base, recipe)
        try:
            for batch in feed.batches(0):
                predicted = base.denoise(batch.latents, batch.timesteps, batch.text)
                loss = ((predicted - batch.noise) ** 2).mean() * batch.share
                loss.backward()  # type: ignore[no-untyped-call]
            results.append(adapter.gradient.clone())
        finally:
            adapter.remove()
    assert torch.allclose(results[0], results[2], atol=1e-6)
    assert float(results[0].abs().max()) > 1e-3
    assert not torch.allclose(results[0], results[1], atol=1e-5)  # a fourth picture
    one = trained(base, tmp_path, 1, training={"batch_size": 1, "accumulation": 3}, optimizer=sgd)
    other = trained(base, tmp_path, 1, training={"batch_size": 3}, optimizer=sgd)
    assert float((one.vector - other.vector).detach().abs().max()) < 1e-4


def test_lora_plus_lets_up_learn_faster_than_down(base: Base, tmp_path: Path) -> None:
    """AdamW's first step has the length of the rate, whatever the gradient."""
    optimizer = {"learning_rate": 1e-3, "lora_plus": 16.0, "weight_decay": 0.0}
    adapter = trained(base, tmp_path, 1, optimizer=optimizer)
    ups = torch.cat([module.up.abs().flatten() for module in adapter.modules])
    assert float(ups.max()) == pytest.approx(16e-3, rel=0.01)
    plain = trained(base, tmp_path, 1, optimizer={"learning_rate": 1e-3, "weight_decay": 0.0})
    ups = torch.cat([module.up.abs().flatten() for module in plain.modules])
    assert float(ups.max()) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("adamw", 1e-2),
        ("adafactor", 1e-2),
        ("lion", 3e-3),
        ("prodigy", 1.0),
        ("came", 1e-2),
    ],
)
def test_every_optimiser_learns(base: Base, tmp_path: Path, kind: str, rate: float) -> None:
    optimizer: dict[str, Any] = {"kind": kind, "learning_rate": rate}
    recipe = convert({"optimizer": optimizer, "training": {"batch_size": 4}})
    feed = fed(base, tmp_path, recipe, 4)
    adapter = adapted(base, recipe)

    def loss() -> float:
        with torch.no_grad():
            total = 0.0
            for step in range(1000, 1010):
                (batch,) = feed.batches(step)
                signal = base.alphas_cumprod[batch.timesteps][:, None, None, None]
                noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
                predicted = base.denoise(noisy, batch.timesteps, batch.text)
                total += float(((predicted - batch.noise) ** 2).mean())
            return total

    try:
        before = loss()
        train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, Steps(40))  # type: ignore[arg-type]
        assert loss() < 0.95 * before
    finally:
        adapter.remove()


def test_adamw_in_8_bits_falls_back_where_it_cannot_be_had(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = convert({"optimizer": {"kind": "adamw8bit"}})
    adapter = adapted(base, recipe)
    adapter.remove()
    made = optimizer_for(adapter, recipe.optimizer)
    assert type(made) is torch.optim.AdamW
    assert "needs a CUDA GPU" in optimizers.no_8bit(torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    assert "cannot be loaded" in optimizers.no_8bit(torch.device("cuda:0"))


def test_bytes_of_an_8_bit_optimiser_come_back_as_bytes() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight])
    optimizer.state[weight] = {"state1": torch.tensor([0, 7, 255], dtype=torch.uint8)}
    tensors, numbers = resume.optimizer_memory(optimizer)
    progress = resume.Progress(1, numbers, [], resume.Fingerprint(*[""] * 3, 1, *[""] * 4))
    resume.put_back_memory(optimizer, resume.State(progress, tensors))
    back = optimizer.state[weight]["state1"]
    assert back.dtype == torch.uint8 and back.tolist() == [0, 7, 255]


def test_schedule_free_keeps_the_average_of_where_it_has_been(base: Base, tmp_path: Path) -> None:
    """With one rate, x is the mean of all z; training itself is at y, between the two."""
    optimizer = {"kind": "schedule_free", "learning_rate": 1e-2, "weight_decay": 0.0}
    recipe = convert({"optimizer": optimizer})
    adapter = adapted(base, recipe)
    made = optimizer_for(adapter, recipe.optimizer)
    feed, seen = fed(base, tmp_path, recipe, 4), []

    class Watched(Steps):
        def record(self, loss: Tensor, rate: float, norm: Tensor) -> None:
            seen.append(made.state[made.param_groups[0]["params"][0]]["z"].clone())

    try:
        train(recipe, base, adapter, made, feed, Watched(4))  # type: ignore[arg-type]
    finally:
        adapter.remove()
    own = adapter.vector.data.clone()
    with adapter.averaged():
        assert torch.allclose(adapter.vector.data, torch.stack(seen).mean(0), atol=1e-6)
        assert not torch.allclose(adapter.vector.data, own, atol=1e-5)
    assert torch.equal(adapter.vector.data, own)


def test_checkpointing_changes_the_memory_and_not_the_result(base: Base, tmp_path: Path) -> None:
    recipe = convert({"network": {"targets": ALL}, "training": {"batch_size": 2}})
    (batch,) = fed(base, tmp_path, recipe, 4).batches(0)
    found, kept = [], []
    for wanted in (False, True):
        adapter = adapted(base, recipe)
        adapter.vector.data.add_(0.01)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        try:
            with bases.checkpointed(base, wanted):
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    out = base.denoise(batch.latents, batch.timesteps, batch.text)
                kept.append(sum(sizes))
                (out**2).mean().backward()  # type: ignore[no-untyped-call]
            found.append(adapter.gradient.clone())
        finally:
            adapter.remove()
    assert torch.allclose(*found, atol=1e-6) and bool(found[0].any())
    assert kept[1] < kept[0] / 2
    assert not base.unet.is_gradient_checkpointing


def test_prodigys_own_options_reach_it(base: Base) -> None:
    recipe = convert(
        {"optimizer": {"kind": "prodigy", "learning_rate": 1.0, "d_coef": 2.0,
                       "bias_correction": True, "safeguard_warmup": True}}
    )  # fmt: skip
    adapter = adapted(base, recipe)
    adapter.remove()
    (group,) = optimizer_for(adapter, recipe.optimizer).param_groups
    assert (group["d_coef"], group["bias_correction"], group["safeguard_warmup"]) == (2, True, True)


def test_the_average_follows_the_lora_and_is_what_is_kept(base: Base, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-2}
    first = trained(base, tmp_path, 1, optimizer=optimizer)
    second = trained(base, tmp_path, 2, optimizer=optimizer, training={"ema": 0.15})
    begin = adapted(base, convert({}))
    begin.remove()
    expected = begin.vector.data.clone()
    for vector, decay in ((first.vector, 1 / 10), (second.vector, 0.15)):  # 2/11 is more
        expected = decay * expected + (1 - decay) * vector.data
    assert second.average is not None and torch.allclose(second.average, expected, atol=1e-6)
    own = second.vector.data.clone()
    with second.averaged():
        assert torch.equal(second.vector.data, second.average)
    assert torch.equal(second.vector.data, own) and not torch.equal(own, second.average)


def test_max_norm_bounds_each_modules_change(base: Base, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 0.1}

    def norms(adapter: Adapter) -> list[float]:
        return [
            float((m.up.flatten(1) @ m.down.flatten(1)).norm()) * m.alpha / len(m.down)
            for m in adapter.modules
        ]

    free = norms(trained(base, tmp_path, 3, optimizer=optimizer))
    network = {"max_norm": 0.05, "targets": ALL}
    held = norms(trained(base, tmp_path, 3, optimizer=optimizer, network=network))
    assert max(free) > 0.06 and max(held) == pytest.approx(0.05, rel=1e-3)


# ── the network ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rslora", [False, True])
def test_all_targets_and_the_text_encoder_come_back_from_the_file_as_trained(
    base: Base, tmp_path: Path, rslora: bool
) -> None:
    recipe = convert(
        {
            "network": {"rank": 4, "alpha": 2.0, "targets": ALL, "conv_rank": 2, "conv_alpha": 1.0,
                        "rslora": rslora},
            "optimizer": {"learning_rate": 0.02, "text_encoder_rate": 0.01},
        }
    )  # fmt: skip
    feed = fed(base, tmp_path, recipe, 4)
    (batch,) = feed.batches(0)
    text = batch.text.detach()
    with torch.no_grad():
        plain = base.denoise(batch.latents, batch.timesteps, text)
        plain_text = base.encode_text("a dragon")
    adapter = adapted(base, recipe)
    try:
        optimizer = optimizer_for(adapter, recipe.optimizer)
        train(recipe, base, adapter, optimizer, feed, Steps(3))  # type: ignore[arg-type]
        with torch.no_grad():
            ours = base.denoise(batch.latents, batch.timesteps, text)
            our_text = base.encode_text("a dragon")
        tensors = {}
        for m in adapter.modules:
            tensors |= lora_file.kohya_tensors([(m.name, m.down, m.up)], m.alpha)
    finally:
        adapter.remove()
    names = {module.name for module in adapter.modules}
    assert names == {*base.unet_names.values(), *base.text_names.values()}
    down = tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"]
    assert down.shape == (2, 32, 3, 3)
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape[0] == 4
    path = tmp_path / "all.safetensors"
    lora_file.write(path, tensors, {})
    weights = lora_file.load(path, base)
    assert not weights.unplaced
    with torch.no_grad(), applied(base, [(weights.modules, 1.0)]):
        again = base.denoise(batch.latents, batch.timesteps, text)
        text_again = base.encode_text("a dragon")
    assert torch.allclose(again, ours, atol=1e-4) and not torch.allclose(ours, plain, atol=1e-3)
    assert torch.allclose(text_again, our_text, atol=1e-4)
    assert not torch.allclose(our_text, plain_text, atol=1e-3)
    with torch.no_grad():  # and the base is as it was
        assert torch.equal(base.denoise(batch.latents, batch.timesteps, text), plain)
        assert torch.equal(base.encode_text("a dragon"), plain_text)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_half_precision_base_trains_every_target(
    base_path: Path, tmp_path: Path, dropout: float
) -> None:
    half = bases.load(base_path, torch.device("cpu"), "bf16")
    network = {"targets": ALL, "dropout": dropout, "rank_dropout": dropout}
    optimizer = {"learning_rate": 1e-2, "text_encoder_rate": 1e-2}
    adapter = trained(half, tmp_path, 2, network=network, optimizer=optimizer)
    for module in adapter.modules:
        assert module.up.dtype == torch.float32 and bool(module.up.any()), module.path


def test_rslora_divides_by_the_root_of_the_rank(base: Base) -> None:
    alphas = []
    for rslora in (False, True):
        adapter = Adapter(base, Network(rank=16, alpha=4.0, rslora=rslora), 0)
        adapter.remove()
        alphas.append(adapter.modules[0].alpha / 16)
    assert alphas == pytest.approx([4 / 16, 4 / 4])


def test_the_text_encoder_has_its_own_rate(base: Base, tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e-3, "text_encoder_rate": 1e-5, "weight_decay": 0.0}
    adapter = trained(base, tmp_path, 1, optimizer=optimizer)
    for network, rate in (("unet", 1e-3), ("text_encoder", 1e-5)):
        ups = [m.up.abs().flatten() for m in adapter.modules if m.network == network]
        assert float(torch.cat(ups).max()) == pytest.approx(rate, rel=0.02), network


@pytest.mark.parametrize("kind", ["dropout", "rank_dropout", "module_dropout"])
def test_dropout_is_for_training_alone_and_repeats(base: Base, tmp_path: Path, kind: str) -> None:
    feed = fed(base, tmp_path, convert({}), 4)
    (batch,) = feed.batches(0)

    def predict(adapter: Adapter, step: int) -> Tensor:
        adapter.dropout.begin(step)
        return base.denoise(batch.latents, batch.timesteps, batch.text).detach()

    plain = Adapter(base, Network(), 0)
    plain.vector.data.add_(0.05)
    with torch.no_grad():
        whole = predict(plain, 0)
    plain.remove()
    network = convert({"network": {kind: 0.5}}).network
    adapter = Adapter(base, network, 0)
    adapter.vector.data.add_(0.05)
    try:
        with torch.no_grad():
            assert torch.allclose(predict(adapter, 0), whole, atol=1e-5)
        first, again, other = predict(adapter, 1), predict(adapter, 1), predict(adapter, 2)
    finally:
        adapter.remove()
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-5)
    assert not torch.allclose(first, whole, atol=1e-5)


def _written(adapter: Adapter, path: Path) -> Path:
    modules = [(m.name, m.down, m.up) for m in adapter.modules]
    lora_file.save(path, modules, adapter.modules[0].alpha, {})
    return path


def test_a_run_begins_from_an_existing_lora(base: Base, tmp_path: Path) -> None:
    network = {"rank": 4, "alpha": 2.0}
    optimizer = {"learning_rate": 0.02}
    source = trained(base, tmp_path, 3, network=network, optimizer=optimizer)
    path = _written(source, tmp_path / "start.safetensors")
    weights = lora_file.load(path, base)
    adapter = Adapter(base, Network(rank=4, alpha=8.0), 1, ema=0.9)  # another alpha: as strong
    adapter.begin_from(weights.modules, "start")
    adapter.remove()
    for ours, before in zip(adapter.modules, source.modules, strict=True):
        assert torch.equal(ours.down, before.down)
        assert torch.allclose(ours.up * ours.alpha, before.up * before.alpha)
    assert adapter.average is not None and torch.equal(adapter.average, adapter.vector.data)
    for other, words in (
        (Network(rank=2), "has rank 4 at"),
        (Network(rank=4, targets=["to_q"]), "does not"),
    ):
        adapter = Adapter(base, other, 1)
        try:
            with pytest.raises(LoraError, match=words) as caught:
                adapter.begin_from(weights.modules, str(path))
        finally:
            adapter.remove()
        assert caught.value.code is Code.INVALID_RECIPE and str(path) in caught.value.message


def test_only_a_plain_lora_can_be_begun_from(base: Base, tmp_path: Path) -> None:
    adapter = Adapter(base, Network(rank=4, alpha=4.0), 1)
    weights = lora_file.load(_written(adapter, tmp_path / "start.safetensors"), base)
    first, *others = weights.modules
    dora = dataclasses.replace(first, magnitude=torch.ones(len(adapter.modules[0].up)))
    with pytest.raises(LoraError, match=r"more than a plain LoRA at .*lora bake"):
        adapter.begin_from([dora, *others], "start")
    adapter.remove()
