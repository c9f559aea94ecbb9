"""Measurements on the tiny base: fixed noise, both its signs, exact averages, nothing disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps

from lora_daemon import pipe
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import load_picture
from lora_daemon.engine.lora_file import kohya_tensors
from lora_daemon.engine.measuring import strata
from lora_daemon.engine.randomness import generator
from lora_daemon.engine.studio import Studio
from lora_daemon.measurements import STRATA
from lora_daemon.names import targeted
from shared.safetensors_file import write
from tests.engine import worker_process as work


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[pipe.FrozenPicture]:
    return work.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def studio(base: Base) -> Studio:
    told: list[Any] = []
    made = Studio(torch.device("cpu"), told.append, lambda _: False)
    made.told = told  # type: ignore[attr-defined]
    return made


def lora(folder: Path, base: Base, seed: int, size: float = 1.0) -> Path:
    """A LoRA of rank 2 on every query of the UNet."""
    tensors = {}
    draw = torch.Generator().manual_seed(seed)
    for path, name in targeted(base.unet_names, ["to_q", "to_v"]).items():
        high, wide = base.unet.get_submodule(path).weight.shape
        down, up = torch.randn(2, wide, generator=draw), torch.randn(high, 2, generator=draw) * size
        tensors |= kohya_tensors([(name, down, up)], 2.0)
    path = folder / f"lora{seed}-{size}.safetensors"
    write(path, tensors, {})
    return path


def rows(
    studio: Studio, base: Base, folder: Path, what: Any, files: list[Path] | None = None,
    weight: float = 1.0, **more: Any,
) -> list[list[float]]:  # fmt: skip
    uses = [pipe.LoraFile(path=str(f), weight=weight, name=f.stem) for f in files or []]
    job = pipe.Measure(
        job="j", what=what, base_path=str(base.path), loras=uses, cache_dir=str(folder / "cache"),
        resolution=base.resolution, seed=7, timesteps=(0, 1000), **more,
    )  # fmt: skip
    studio.serve(job, lambda: base)
    told = studio.told.pop()  # type: ignore[attr-defined]
    assert isinstance(told, pipe.Measured), told
    found: list[list[float]] = told.rows
    return found


def test_the_loss_is_over_fixed_noise_and_its_negative(
    studio: Studio, base: Base, tmp_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    bare = rows(studio, base, tmp_path, "loss", pictures=frozen[:2])
    assert [len(row) for row in bare] == [STRATA, STRATA]
    assert rows(studio, base, tmp_path, "loss", pictures=frozen[:2]) == bare
    # By hand, one sign after the other, at the first timestep.
    job = pipe.Measure(
        job="j", what="loss", base_path="", loras=[], cache_dir="", resolution=64, seed=7,
        timesteps=(0, 1000),
    )  # fmt: skip
    picture = frozen[0]
    (entry,) = (tmp_path / "cache" / "latents").glob(f"*/{_key(base, tmp_path, picture)}*")
    from lora_daemon.engine.cache import LatentsCache

    cache = LatentsCache(tmp_path / "cache", base, base.resolution, mirrored=False)
    moments = cache.find(entry.stem, (base.resolution, base.resolution))
    assert moments is not None
    t = strata(job, picture.content)
    assert [int(one) * STRATA // 1000 for one in t] == list(range(STRATA))
    own = generator(7, "measured noise", picture.content)
    noise = torch.randn((STRATA, *moments.mean.shape), generator=own)[:1]
    alpha = base.alphas_cumprod[t[0]]
    text = base.encode_text(picture.caption)
    errors = []
    for sign in (noise, -noise):
        noisy = alpha.sqrt() * moments.mean + (1 - alpha).sqrt() * sign
        with torch.no_grad():
            found = base.denoise(noisy.to(base.device), t[:1].to(base.device), text).cpu()
            errors.append(float(((found - sign) ** 2).mean()))
    assert bare[0][0] == pytest.approx(sum(errors) / 2, rel=1e-4)


def _key(base: Base, folder: Path, picture: pipe.FrozenPicture) -> str:
    from lora_daemon.engine.cache import LatentsCache

    return LatentsCache(folder / "cache", base, base.resolution).key(picture)


def test_an_average_is_the_average_of_the_changes_of_the_weights(
    studio: Studio, base: Base, tmp_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    one, other = lora(tmp_path, base, 1), lora(tmp_path, base, 2)
    bare = rows(studio, base, tmp_path, "loss", pictures=frozen)
    alone = rows(studio, base, tmp_path, "loss", [one], pictures=frozen)
    assert alone != bare
    twice = rows(studio, base, tmp_path, "loss", [one, one], 0.5, pictures=frozen)
    assert torch.tensor(twice).allclose(torch.tensor(alone), rtol=1e-4)
    both = rows(studio, base, tmp_path, "loss", [one, other], 0.5, pictures=frozen)
    halves = [lora(tmp_path, base, seed, 0.5) for seed in (1, 2)]
    summed = rows(studio, base, tmp_path, "loss", halves, pictures=frozen)
    assert torch.tensor(both).allclose(torch.tensor(summed), rtol=1e-4)
    assert rows(studio, base, tmp_path, "loss", pictures=frozen) == bare


def test_drift_is_nothing_without_a_lora_and_grows_with_it(
    studio: Studio, base: Base, tmp_path: Path
) -> None:
    prompts = ["a red box"]
    file = lora(tmp_path, base, 1)
    assert rows(studio, base, tmp_path, "drift", texts=prompts) == [[0.0] * STRATA]
    little = rows(studio, base, tmp_path, "drift", [file], 0.1, texts=prompts)
    much = rows(studio, base, tmp_path, "drift", [file], 0.5, texts=prompts)
    assert all(
        0 < a < b for x, y in zip(little, much, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_a_leak_compares_the_captions_without_and_with_the_word(
    studio: Studio, base: Base, tmp_path: Path
) -> None:
    file = lora(tmp_path, base, 1)
    pairs = [("a drawing", "a drawing"), ("a drawing", "a drawing of thing 1")]
    same, other = rows(studio, base, tmp_path, "leak", [file], captions=pairs)
    assert same[0] == same[1] > 0
    assert other[0] == same[0] and other[1] != other[0]


def test_a_copy_is_nearer_than_relatives_are(
    studio: Studio, base: Base, tmp_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    copy = tmp_path / "copy.png"
    ImageOps.mirror(load_picture(Path(frozen[1].path))).save(copy)
    near, control = rows(studio, base, tmp_path, "nearness", pictures=frozen, painted=[str(copy)])
    assert near[0] > 0.999
    assert len(control) == len(frozen) and max(control) < near[0]


def test_a_picture_that_is_gone_is_named_and_the_rest_is_measured(
    studio: Studio, base: Base, tmp_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    gone = pipe.FrozenPicture(item="x", path="/nowhere.png", content="0" * 64, caption="")
    job = pipe.Measure(
        job="j", what="loss", base_path=str(base.path), loras=[], cache_dir=str(tmp_path / "c"),
        resolution=64, seed=1, timesteps=(0, 1000), pictures=[gone, frozen[0]],
    )  # fmt: skip
    studio.serve(job, lambda: base)
    told = studio.told.pop()  # type: ignore[attr-defined]
    assert [bool(row) for row in told.rows] == [False, True]
    assert told.skipped == [("/nowhere.png", "the file is no longer there")]


def test_measured_in_the_middle_of_a_run_neither_notices_the_other(
    tmp_path: Path, base_path: Path, frozen: list[pipe.FrozenPicture]
) -> None:
    order = work.prepare(tmp_path / "run", base_path, frozen, training={"epochs": 12})
    job = pipe.Measure(
        job="j", what="loss", base_path=str(base_path), loras=[], resolution=64, seed=1,
        cache_dir=order.cache_dir, timesteps=(0, 1000), pictures=frozen[:1],
    )  # fmt: skip
    with work.worker() as one:
        one.send(job)
        alone = one.until(pipe.Measured).rows
        one.send(order)
        one.until(pipe.Tick)
        one.send(job)
        assert one.until(pipe.Measured).rows == alone
        assert not one.of(pipe.Finished)
        one.until(pipe.Finished)
    plain = work.prepare(tmp_path / "plain", base_path, frozen, training={"epochs": 12})
    work.train(plain)
    assert work.content(order) == work.content(plain)
    lines = (tmp_path / "run" / "losses.csv").read_text().splitlines()
    assert len(lines) == 1 + 12 * len(frozen)
    assert lines == (tmp_path / "plain" / "losses.csv").read_text().splitlines()
