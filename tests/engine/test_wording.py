"""What prompts say to the UNet: weights, windows, textual inversions; nothing changed without."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lora_daemon import pipe
from lora_daemon.engine import bases, embeddings, lora_file, wording
from lora_daemon.engine.bases import Base, Reading
from lora_daemon.engine.lora_file import kohya_tensors
from lora_daemon.engine.lora_read import raw
from lora_daemon.engine.samples import Samples
from lora_daemon.engine.steering import Steering
from lora_daemon.engine.wording import NEAR_COMMA, ROOM, Window, conditioning, windows
from shared.errors import Code, LoraError
from shared.recipe import convert
from shared.safetensors_file import write
from tests.engine import tiny_base

SHORT = "a thing, on a mat"
LONG = ", ".join(f"thing {n}" for n in range(40))  # a token each letter: some 300


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = tiny_base.build(tmp_path_factory.mktemp("wording") / "xl", family="sdxl")
    return bases.load(path, torch.device("cpu"))


def width(base: Base) -> int:
    return int(base.unet.config.cross_attention_dim)


@pytest.mark.parametrize("reading", [Reading(), Reading(skip=2), Reading(windows=2)])
def test_a_short_plain_prompt_is_read_bit_for_bit_as_captions_are(
    base: Base, sdxl: Base, reading: Reading
) -> None:
    for own in (base, sdxl):
        said = conditioning(own, [SHORT, "", SHORT], reading)
        for row, text in zip(said, (SHORT, "", SHORT), strict=True):
            assert torch.equal(row, own.encode_text(text, reading)[0])


def test_weights_scale_their_rows(base: Base) -> None:
    (before,), (after,) = (conditioning(base, [text]) for text in ("ab c", "(ab:1.5) [c]"))
    weights = torch.tensor([1.0, 1.5, 1.5, 1 / 1.1, *[1.0] * 73])
    assert torch.allclose(after, before * weights[:, None], atol=1e-5)  # its mean is none


def test_each_windows_mean_is_kept() -> None:
    hidden = torch.randn(2, 77, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    own = [Window([5, 6], [1.5, 0.2]), Window([5], [1.0])]
    found = wording._emphasised(hidden, own)
    assert torch.allclose(found.mean((1, 2)), hidden.mean((1, 2)), atol=1e-5)
    assert torch.equal(found[1], hidden[1])
    rows = found[0] / hidden[0]
    assert torch.allclose(rows[1] / rows[0], torch.full((8,), 1.5), atol=1e-4)
    assert torch.allclose(rows[2] / rows[0], torch.full((8,), 0.2), atol=1e-4)


def test_escaped_brackets_are_words(base: Base) -> None:
    (said,) = conditioning(base, [r"a \(b\)"])
    assert torch.equal(said, base.encode_text("a (b)")[0])


def test_a_long_prompt_is_read_in_windows_and_the_shorter_goes_on_with_empty_ones(
    base: Base, sdxl: Base
) -> None:
    for own in (base, sdxl):
        number = wording.windows_of(own, LONG)
        said = conditioning(own, ["", LONG])
        pooled = own._pooled_rows
        assert number > 2 and said.shape[1:] == (77 * number + pooled, width(own))
        empty = own.encode_text("")[0]
        for n in range(number):
            assert torch.allclose(said[0, 77 * n : 77 * (n + 1)], empty[:77], atol=1e-5)
        first = own.encode_text(LONG[: LONG.index("thing 10")].rstrip())[0]  # cut at a comma
        assert torch.allclose(said[1, :77], first[:77], atol=1e-5)


def test_a_full_window_ends_at_a_comma_that_is_near(base: Base) -> None:
    encoder, plain = base.encoders[0], "x" * (ROOM - 5)
    near = windows(encoder, f"{plain[:-2]}, yyyyyyyy", {})
    assert [len(one.ids) for one in near] == [ROOM - 6, 8]
    far = windows(encoder, f"x, {'y' * (ROOM + 5)}", {})
    assert [len(one.ids) for one in far] == [ROOM, 7] and ROOM - 2 > NEAR_COMMA
    section = windows(encoder, "ab BREAK (c:1.2)", {})
    assert [one.weights for one in section] == [[1.0, 1.0], [1.2]]


def vectors(count: int, wide: int) -> Tensor:
    return torch.randn(count, wide, generator=torch.Generator().manual_seed(count))


def test_an_embedding_stands_where_its_name_does(base: Base, tmp_path: Path) -> None:
    """Vectors that are those of other words say what these words say."""
    encoder = base.encoders[0]
    ids = encoder.tokenizer("xyz", add_special_tokens=False).input_ids
    table = encoder.model.get_input_embeddings().weight
    write(tmp_path / "My-Style.safetensors", {"emb_params": raw(table[ids])}, {})
    learnt = {"my-style": embeddings.load(tmp_path / "My-Style.safetensors", base)}
    plain = conditioning(base, ["a xyz b"])
    with wording.learnt(base, learnt):
        assert torch.allclose(conditioning(base, ["a my-STYLE b"]), plain, atol=1e-6)
        weighted = conditioning(base, ["a (My-Style:1.3) b"])
        assert torch.equal(conditioning(base, [SHORT])[0], base.encode_text(SHORT)[0])
    assert torch.allclose(weighted, conditioning(base, ["a (xyz:1.3) b"]), atol=1e-5)
    assert not torch.allclose(conditioning(base, ["a my-style b"]), plain)  # no longer known


def test_a_sample_during_training_may_name_one(base: Base, tmp_path: Path) -> None:
    """It shows what the words show whose vectors the embedding has; without its file it is told."""
    encoder = base.encoders[0]
    ids = encoder.tokenizer("xyz", add_special_tokens=False).input_ids
    path = tmp_path / "My-Style.safetensors"
    write(path, {"emb_params": raw(encoder.model.get_input_embeddings().weight[ids])}, {})
    told: list[pipe.Report] = []
    steering = Steering("r1", SimpleNamespace(leaving=lambda run: False), told.append)  # type: ignore[arg-type]

    def sampled(folder: str, prompt: str) -> Samples:
        recipe = convert({"sample": {"prompts": [prompt], "steps": 2}})
        learnt = [("My-Style", str(path))]
        place = tmp_path / folder
        made = Samples(recipe, base, place, 64, "b", steering, contextlib.nullcontext, learnt)
        made.make(1)
        return made

    for folder, prompt in (("named", "a my-style b"), ("said", "a xyz b"), ("other", "a b")):
        sampled(folder, prompt)
    pixels = {
        name: np.asarray(Image.open(tmp_path / name / "samples" / "step000001_00.png"), dtype=int)
        for name in ("named", "said", "other")
    }
    assert abs(pixels["named"] - pixels["said"]).max() <= 1
    assert abs(pixels["named"] - pixels["other"]).max() > 1
    path.unlink()
    sampled("gone", "a my-style b")
    (notice,) = (one.message for one in told if isinstance(one, pipe.Notice))
    assert "A sample of step 1 failed" in notice and "My-Style" in notice


def test_sdxl_takes_one_for_each_encoder_and_a_lora_file_may_bring_it(
    sdxl: Base, tmp_path: Path
) -> None:
    path = tmp_path / "ink.safetensors"
    tables = [one.model.get_input_embeddings().weight[[70, 71]] for one in sdxl.encoders]
    name = next(iter(sdxl.unet_names.values()))
    shape = sdxl.unet.get_submodule(next(iter(sdxl.unet_names))).weight.shape
    down, up = torch.ones(1, shape[1]), torch.ones(shape[0], 1)
    parts = zip(("clip_l", "clip_g"), tables, strict=True)
    write(
        path,
        kohya_tensors([(name, down, up)], 1.0)
        | {f"bundle_emb.hatch.{key}": raw(value) for key, value in parts},
        {},
    )
    assert lora_file.load(path, sdxl).unplaced == []
    carried = embeddings.carried([path], sdxl)
    assert [one.shape[0] for one in carried["hatch"]] == [2, 2]
    with wording.learnt(sdxl, carried):
        said = conditioning(sdxl, ["hatch"])
    assert not torch.allclose(said, conditioning(sdxl, ["hatch"]))


def test_what_does_not_fit_is_named(base: Base, sdxl: Base, tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    write(path, {"emb_params": raw(vectors(2, 768))}, {})
    for own, wide in ((base, "32"), (sdxl, "32 and 48")):
        with pytest.raises(LoraError) as refused:
            embeddings.load(path, own)
        assert refused.value.code is Code.INVALID_FILE
        assert "768" in str(refused.value) and wide in str(refused.value)
    for tensors, words in (
        ({"emb_params": raw(vectors(76, 32))}, "room for 75"),
        ({"a": raw(vectors(1, 32)), "b": raw(vectors(1, 32))}, "no textual inversion"),
        ({"emb_params": raw(torch.full((1, 32), float("nan")))}, "not finite"),
    ):
        write(path, tensors, {})
        with pytest.raises(LoraError, match=words):
            embeddings.load(path, base)
    pickled = tmp_path / "old.pt"
    torch.save({"string_to_param": {"*": vectors(1, 32)}}, pickled)
    with pytest.raises(LoraError, match="pickle"):
        embeddings.load(pickled, base)
