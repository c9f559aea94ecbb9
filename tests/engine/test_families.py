"""Stable Diffusion 2 (predicting v) and XL (two text encoders, views): trained, painted, mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from lora_daemon import pipe
from lora_daemon.engine import bases, lora_file, single_file
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import load_picture
from lora_daemon.engine.feed import view
from lora_daemon.engine.generate import paint
from lora_daemon.engine.mix import applied
from lora_daemon.engine.optimizers import optimizer_for
from lora_daemon.engine.samplers import scheduler
from lora_daemon.engine.train import train
from shared.errors import LoraError
from shared.lora_info import inspect
from shared.pictures import LoraUse, PictureSpec
from shared.recipe import convert
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import encode, read_header, read_tensor
from tests.engine import tiny_base
from tests.engine.test_train import Steps, fed
from tests.engine.worker_process import pictures, prepare, worker

CPU = torch.device("cpu")
KINDS: tuple[tiny_base.Kind, ...] = ("sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {kind: tiny_base.build(root / kind, family=kind) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Base]:
    return {kind: bases.load(folder, CPU) for kind, folder in folders.items()}


def _noisy(count: int = 1) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_one_file_ends_in_a_lora_that_paints(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "base.safetensors"
    single_file.pack(folders[kind], file)
    order = prepare(
        tmp_path / "r1", file, pictures(tmp_path / "pictures", 3),
        training={"epochs": 3}, optimizer={"text_encoder_rate": 1e-3, "learning_rate": 1e-3},
        dataset={"flip": True}, sample={"prompts": ["a thing"], "every_epochs": 3, "steps": 2},
    )  # fmt: skip
    lora = tmp_path / "r1" / "lora" / "things.safetensors"
    with worker() as one:
        one.send(order)
        finished = one.until(pipe.Finished)
        assert (finished.outcome, finished.step) == ("finished", 9)
        assert len(one.of(pipe.SampleSaved)) >= 1
        files = [pipe.LoraFile(path=str(lora), weight=8.0, name="things")]
        for name, loras in (("without", []), ("with", files)):
            spec = PictureSpec(
                base="b", prompt="a thing", steps=2, cfg=3.0, seed=4,
                loras=[LoraUse(lora="things", weight=8.0)] if loras else [],
            )  # fmt: skip
            out = str(tmp_path / f"{name}.png")
            one.send(pipe.Paint(job=name, spec=spec, base_path=str(file), loras=loras, out=out))
            assert one.until(pipe.Painted).notes == []  # every module has its place
    without, with_it = (Image.open(tmp_path / f"{one}.png") for one in ("without", "with"))
    assert without.size == (64, 64) and without.tobytes() != with_it.tobytes()
    info = inspect(lora)
    expected = {"sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}[kind]
    assert info.base_version == expected
    assert info.metadata["ss_v2"] == str(kind == "sd2")
    names = {name.split("_text")[0] for name in read_header(lora).tensors if "_text" in name}
    assert names == {"sd2": {"lora_te"}, "sdxl": {"lora_te1", "lora_te2"}}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_lora_does_on_the_base_what_the_trained_one_did(
    kind: str, loaded: dict[str, Base], tmp_path: Path
) -> None:
    base = loaded[kind]
    recipe = convert(
        {
            "optimizer": {"learning_rate": 1e-2, "text_encoder_rate": 1e-2},
            "network": {"rank": 2, "targets": ["to_q", "to_v", "ff", "proj", "conv"]},
        }
    )
    plain = _predicted(base)
    adapter = Adapter(base, recipe.network, 0, with_text=True)
    try:
        optimizer = optimizer_for(adapter, recipe.optimizer)
        train(recipe, base, adapter, optimizer, fed(base, tmp_path, recipe, 4), Steps(3))  # type: ignore[arg-type]
        learnt = _predicted(base)
    finally:
        adapter.remove()
    networks = {module.network for module in adapter.modules}
    assert networks == {"sd2": {"unet", "text_encoder"}}.get(
        kind, {"unet", "text_encoder", "text_encoder_2"}
    )
    for network in networks:
        own = [module for module in adapter.modules if module.network == network]
        assert any(float(module.up.abs().max()) > 0 for module in own), network
    rows = [(one.name, one.down, one.up) for one in adapter.modules]
    lora_file.save(tmp_path / "l.safetensors", rows, 8.0, {})
    weights = lora_file.load(tmp_path / "l.safetensors", base)
    assert not weights.unplaced and len(weights.modules) == len(rows)
    with applied(base, [(weights.modules, 1.0)]):
        torch.testing.assert_close(_predicted(base), learnt, atol=1e-5, rtol=1e-4)
    assert torch.equal(_predicted(base), plain) and not torch.allclose(learnt, plain, atol=1e-3)


def test_a_lora_of_another_family_is_refused_though_a_text_encoder_would_fit(
    base: Base, loaded: dict[str, Base], tmp_path: Path
) -> None:
    rows = []
    for network, names in (("unet", loaded["sdxl"].unet_names), ("text_encoder", {})):
        for path, name in (names or loaded["sdxl"].text_names).items():
            shape = getattr(loaded["sdxl"], network).get_submodule(path).weight.shape
            wide = (1,) * len(shape[2:])
            rows.append((name, torch.ones(2, *shape[1:]), torch.ones(shape[0], 2, *wide)))
    lora_file.save(tmp_path / "xl.safetensors", rows, 2.0, {})
    assert not lora_file.load(tmp_path / "xl.safetensors", loaded["sdxl"]).unplaced
    with pytest.raises(LoraError, match=r"does not belong on this base \(Stable Diffusion 1\.x\)"):
        lora_file.load(tmp_path / "xl.safetensors", base)


@torch.no_grad()
def _predicted(base: Base) -> Tensor:
    return base.denoise(_noisy(), torch.tensor([500]), base.encode_text("a thing"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_what_the_base_predicts(
    kind: str, loaded: dict[str, Base], tmp_path: Path
) -> None:
    base = loaded[kind]
    recipe = convert({})
    feed = fed(base, tmp_path, recipe, 2)
    adapter, losses = Adapter(base, recipe.network, 0), list[float]()
    try:
        steps = Steps(1)
        steps.record = lambda loss, *_: losses.append(float(loss))  # type: ignore[method-assign]
        train(recipe, base, adapter, optimizer_for(adapter, recipe.optimizer), feed, steps)  # type: ignore[arg-type]
    finally:
        adapter.remove()
    (batch,) = feed.batches(0)
    alpha = base.alphas_cumprod[batch.timesteps][:, None, None, None]
    noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise
    velocity = alpha.sqrt() * batch.noise - (1 - alpha).sqrt() * batch.latents
    with torch.no_grad():
        predicted = base.denoise(noisy, batch.timesteps, batch.text, batch.views)
    target = {"sd2": velocity, "sdxl": batch.noise}[kind]
    assert losses == pytest.approx([float(F.mse_loss(predicted, target))], rel=1e-5)
    assert (batch.views is None) == (kind == "sd2")


def test_sdxl_is_conditioned_as_diffusers_pipeline_does_it(
    folders: dict[str, Path], loaded: dict[str, Base]
) -> None:
    base = loaded["sdxl"]
    theirs = StableDiffusionXLPipeline.from_pretrained(folders["sdxl"], local_files_only=True)
    words, _, pooled, _ = theirs.encode_prompt("a thing", device=CPU, num_images_per_prompt=1,
                                               do_classifier_free_guidance=False)  # fmt: skip
    ours = base.encode_text("a thing")
    torch.testing.assert_close(ours[:, :77], words)
    torch.testing.assert_close(ours[:, 77:].flatten(1)[:, : pooled.shape[1]], pooled)
    ids = torch.tensor([[96.0, 64.0, 8.0, 0.0, 64.0, 64.0]])
    added = {"text_embeds": pooled, "time_ids": ids}
    with torch.no_grad():
        expected = theirs.unet(_noisy(), 300, words, added_cond_kwargs=added)[0]
        got = base.denoise(_noisy(), torch.tensor([300]), ours, ids)
        other = base.denoise(_noisy(), torch.tensor([300]), ours)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(other, expected)  # what it is told of the crop counts


def test_long_captions_keep_sdxls_pooled_output_behind_them(loaded: dict[str, Base]) -> None:
    base = loaded["sdxl"]
    short, long = "a" * 75, "a" * 75 + " " + "b" * 20
    once = base.encode_text(short)
    for joined, rows in (("kohya", 152), ("webui", 154)):
        reading = bases.Reading(windows=2, joined=joined)
        twice = base.encode_text(long, reading)
        assert twice.shape[1] - rows == once.shape[1] - 77
        torch.testing.assert_close(twice[:, rows:], once[:, 77:])  # of the first window
        with torch.no_grad():
            base.denoise(_noisy(), torch.tensor([300]), twice)


def test_views_say_how_a_picture_was_cropped() -> None:
    assert view((512, 512), (512, 512), False) == [512, 512, 0, 0, 512, 512]
    assert view((1000, 1500), (500, 500), False) == [1000, 1500, 0, 125, 500, 500]
    assert view((1003, 1000), (1000, 1000), True) == [1003, 1000, 1, 0, 1000, 1000]
    across = [view((100, 153), (100, 100), mirrored)[3] for mirrored in (False, True)]
    assert across == [26, 27]
    assert view(None, (64, 64), True) == [64, 64, 0, 0, 64, 64]
    # 1200 × 900 in a bucket of 1152 × 896: resized to 1195 × 896, 43 pixels lost across
    assert view((900, 1200), (1152, 896), False) == [900, 1200, 0, 21, 896, 1152]
    assert view((900, 1200), (1152, 896), True) == [900, 1200, 0, 22, 896, 1152]


def test_the_size_of_a_turned_picture_is_that_of_what_is_shown(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    picture.save(tmp_path / "b.png")
    assert load_picture(tmp_path / "a.jpg").size == (20, 30)
    assert load_picture(tmp_path / "b.png").size == (30, 20)


def test_zero_terminal_snr_trains_and_paints_from_pure_noise(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "noob.safetensors"
    single_file.pack(folders["sdxl"], file)
    _mark(file, v_pred=b"", ztsnr=b"")
    base = bases.load(file, CPU)
    assert base.zero_snr and base.objective == "v_prediction"
    assert float(base.alphas_cumprod[-1]) == 0 < float(base.alphas_cumprod[-2])
    steps = scheduler("Euler", base.scheduler_config)
    steps.set_timesteps(5)
    assert int(steps.timesteps[0]) == 999
    with pytest.raises(LoraError, match=r"Heun cannot paint.*Euler a"):
        scheduler("Heun", base.scheduler_config)
    spec = PictureSpec(base="b", prompt="x", steps=3, seed=1, cfg=5.0)
    (picture,) = paint(base, [spec], lambda _: None)
    assert picture.size == (64, 64)


def _mark(path: Path, **more: bytes) -> None:
    """Add marks to a file."""
    header = read_header(path)
    with path.open("rb") as file:
        tensors: dict[str, Any] = {
            name: RawTensor(info.dtype, info.shape, read_tensor(file, header, name))
            for name, info in header.tensors.items()
        }
    tensors |= {name: RawTensor("F32", (0,), data) for name, data in more.items()}
    path.write_bytes(encode(tensors, header.metadata))


def test_guidance_is_rescaled_where_the_schedule_ends_in_noise(loaded: dict[str, Base]) -> None:
    from lora_daemon.engine.generate import guided

    base = loaded["sdxl"]
    text = torch.cat([base.encode_text(""), base.encode_text("x")])
    plain = guided(base, _noisy(), torch.tensor(900), text, 30.0)
    base.scheduler_config["rescale_betas_zero_snr"] = True
    try:
        rescaled = guided(base, _noisy(), torch.tensor(900), text, 30.0)
    finally:
        del base.scheduler_config["rescale_betas_zero_snr"]
    assert float(rescaled.std()) < float(plain.std())
    direction = F.cosine_similarity(rescaled.flatten(), plain.flatten(), dim=0)
    assert float(direction) == pytest.approx(1.0, abs=1e-4)
