"""The packaged base, judge and data sets: whole, loadable offline, and repeatable."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from lora_daemon import starter
from lora_daemon.starter import autoencoder, evaluate, loop, text, world
from lora_daemon.starter.classifiers import Judge


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return evaluate.load_base()


@pytest.mark.parametrize(
    "words",
    [
        "a red ball on the grass",
        "A Creature with horns!",
        "zxqwv 1234 under-scored_words",
        "ünïcödé 漢字 🙂🎉",
        "\tline\nbreaks\x00and\x7fcontrols",
        "",
    ],
)
def test_any_text_is_tokenized_and_comes_back(pipe: StableDiffusionPipeline, words: str) -> None:
    tokenizer = pipe.tokenizer
    ids = text.tokenize(tokenizer, [words])
    assert ids.shape == (1, 77)
    assert ids[0, 0] == tokenizer.bos_token_id
    assert int(ids.max()) < pipe.text_encoder.config.vocab_size
    back = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert back.replace(" ", "") == "".join(words.lower().split())


def test_a_long_text_is_cut_and_still_ends(pipe: StableDiffusionPipeline) -> None:
    ids = text.tokenize(pipe.tokenizer, ["漢字 " * 200])
    assert ids.shape == (1, 77)
    assert ids[0, -1] == pipe.tokenizer.eos_token_id


def test_pooled_output_is_read_at_the_end_token(pipe: StableDiffusionPipeline) -> None:
    ids = text.tokenize(pipe.tokenizer, ["a red ball"])
    end = int((ids[0] == pipe.tokenizer.eos_token_id).int().argmax())
    with torch.no_grad():
        out = pipe.text_encoder(ids)
    assert torch.equal(out.pooler_output[0], out.last_hidden_state[0, end])


def test_the_base_has_the_parts_and_key_names_of_sd_1_5(pipe: StableDiffusionPipeline) -> None:
    assert type(pipe.vae).__name__ == "AutoencoderKL"
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    names = dict(pipe.unet.named_modules())
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" in names
    assert "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0" in names
    assert pipe.scheduler.config.prediction_type == "epsilon"
    size = sum(file.stat().st_size for file in starter.base_dir().rglob("*") if file.is_file())
    assert size <= 12_000_000


@pytest.mark.parametrize("name", starter.BASES)
def test_every_base_is_whole_small_and_paints_the_colour_asked_for(name: str) -> None:
    folder = starter.base_dir(name)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 12_000_000
    asked = evaluate.asked_held_out(4)
    prompts = [world.prompt(one) for one in asked]
    pictures = evaluate.generate(evaluate.load_base(folder), prompts, steps=10)
    measured, _ = evaluate.rates(pictures, asked, Judge.load())
    assert measured["colour"].hits >= 3


def test_the_foreign_base_shares_neither_words_nor_attention_with_the_base() -> None:
    ours, theirs = (evaluate.load_base(starter.base_dir(n)) for n in ("starter", "starter-foreign"))
    for part in ("text_encoder", "unet"):
        mine, other = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
        assert mine.keys() == other.keys()
        for name in mine:
            if name.endswith((".to_q.weight", "q_proj.weight")):
                one, two = mine[name].flatten(), other[name].flatten()
                assert abs(float(torch.cosine_similarity(one, two, dim=0))) < 0.1


def test_the_tokenizer_is_learnt_the_same_way_every_time() -> None:
    first, again = text.build_tokenizer(), text.build_tokenizer()
    assert first.get_vocab() == again.get_vocab()
    assert first.tokenize("butterflies in a meadow") == again.tokenize("butterflies in a meadow")
    merges = text._merges(Counter({"ab": 2, "cd": 2, "abab": 1}))
    assert merges[:2] == [("a", "b</w>"), ("c", "d</w>")]


def test_spearman_ranks_ties_by_their_mean() -> None:
    assert evaluate.spearman([1, 2, 3, 4], [0.1, 0.2, 0.2, 0.9]) == pytest.approx(0.9487, abs=1e-4)
    assert evaluate.spearman([1, 2, 3], [3, 2, 1]) == -1


def test_the_same_seed_paints_the_same_pixels(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a red star in the snow"]
    first, again = (evaluate.generate(pipe, prompts, steps=4) for _ in range(2))
    assert np.array_equal(np.asarray(first[0]), np.asarray(again[0]))
    other = evaluate.generate(pipe, prompts, steps=4, first_seed=7)
    assert not np.array_equal(np.asarray(first[0]), np.asarray(other[0]))


def test_the_base_paints_what_it_is_asked_for(pipe: StableDiffusionPipeline) -> None:
    asked = evaluate.asked_held_out(6)
    pictures = evaluate.generate(pipe, [world.prompt(one) for one in asked], steps=12)
    measured, _ = evaluate.rates(pictures, asked, Judge.load())
    assert measured["colour"].hits >= 4
    assert measured["background"].hits >= 4
    assert measured["creature"].hits <= 1


def test_latents_have_the_scale_of_sd_1_5(pipe: StableDiffusionPipeline) -> None:
    pixels = autoencoder.to_bytes([world.draw(scene) for scene in world.scenes(24, seed=31)])
    scaled = autoencoder.encode(pipe.vae, pixels) * pipe.vae.config.scaling_factor
    assert float(scaled.mean().abs()) < 0.15
    assert 0.8 < float(scaled.std()) < 1.2
    assert autoencoder.psnr(pipe.vae, pixels) > 24


def test_the_judge_is_right_about_drawings() -> None:
    scenes = list(world.scenes(20, seed=32, crowd=0))
    scenes += list(world.scenes(10, seed=32, content="creature", crowd=0))
    verdicts = Judge.load()([world.draw(scene) for scene in scenes])
    right = sum(
        (v.object, v.colour, v.background) == s.combination
        for v, s in zip(verdicts, scenes, strict=True)
    )
    assert right >= 28
    assert [v.creature for v in verdicts].count(True) in (9, 10, 11)
    sketches = Judge.load()([world.draw(scene, "pencil") for scene in scenes[:10]])
    assert sum(v.pencil for v in sketches) >= 9


def test_the_judge_sees_nothing_in_noise_or_an_empty_canvas() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise), Image.new("RGB", (64, 64), "white")]
    assert [verdict.creature for verdict in Judge.load()(pictures)] == [False, False]
    assert Judge.load()([]) == []


def test_the_data_sets_are_whole() -> None:
    creatures = sorted(starter.dataset_dir("creatures").glob("*.png"))
    assert len(creatures) >= 24
    for picture in creatures:
        assert "creature" in picture.with_suffix(".txt").read_text()
    pencils = starter.dataset_dir("pencil")
    assert len(list(pencils.glob("*.png"))) >= 24
    assert not list(pencils.glob("*.txt"))
    with pytest.raises(ValueError, match=r"creatures, pencil"):
        starter.dataset_dir("../base")


def test_the_packaged_files_are_the_ones_made() -> None:
    starter.verify()
    root = starter.ROOT
    listed = {line.split("  ")[1] for line in (root / "SHA256SUMS").read_text().splitlines()}
    assert listed == {file.relative_to(root).as_posix() for file in starter.made_files()}


def test_a_flipped_byte_is_caught_and_named(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shutil.copy(starter.base_dir() / "model_index.json", tmp_path / "base")
    weights = tmp_path / "base" / "weights.bin"
    weights.write_bytes(bytes(1000))
    starter.write_checksums(tmp_path)
    starter.verify(tmp_path)
    weights.write_bytes(bytes(500) + b"\x01" + bytes(499))
    with pytest.raises(starter.StarterDamagedError, match=r"damaged: .*weights\.bin"):
        starter.verify(tmp_path)
    weights.unlink()
    with pytest.raises(starter.StarterDamagedError, match=r"missing: .*weights\.bin"):
        starter.verify(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(starter.StarterDamagedError, match="checksums is missing"):
        starter.verify(tmp_path)


def test_training_killed_halfway_ends_as_if_it_never_was(tmp_path: Path) -> None:
    def run(state: Path, stop_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        network, calls = torch.nn.Linear(4, 4), 0

        def loss_at(rng: torch.Generator) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return network(torch.randn(8, 4, generator=rng)).square().mean()

        loop.train("test", network, loop.Schedule(20), loss_at, state, seed=3)
        return network.weight.detach().clone()

    whole = run(tmp_path / "whole.pt", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed.pt", 11)
    assert torch.equal(run(tmp_path / "killed.pt", None), whole)


def test_wilson_intervals_hold_their_share() -> None:
    low, high = evaluate.Rate(80, 100).interval()
    assert (round(low, 3), round(high, 3)) == (0.711, 0.867)
    assert evaluate.Rate(0, 100).interval()[1] == pytest.approx(0.037, abs=1e-3)
