"""Pictures read ahead by other threads: the entries in their order, and each one's own failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lora_daemon.engine.ahead import Wanted, entries
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, PictureError, Seen
from lora_daemon.engine.versions import PLAIN, Version
from lora_daemon.pipe import Finished, FrozenPicture
from shared.safetensors_file import read_header
from tests.engine import worker_process as work
from tests.engine.test_compiled import prepared, ran


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_each_entry_is_its_picture_s_and_a_bad_one_fails_alone(base: Base, tmp_path: Path) -> None:
    frozen = work.pictures(tmp_path / "pictures", 9)
    one_by_one = LatentsCache(tmp_path / "plain", base, 64)
    keys = [one_by_one.key(picture) for picture in frozen]
    expected = [one_by_one.make(*both) for both in zip(keys, frozen, strict=True)]
    Path(frozen[4].path).write_bytes(b"not a picture")
    cache = LatentsCache(tmp_path / "cache", base, 64)
    cache.make(keys[2], frozen[2])  # one is there

    for turn in range(2):
        failed = []
        with closing(entries(cache, [*map(Wanted, keys, frozen)])) as coming:
            for number, entry in enumerate(coming):
                try:
                    found = entry()
                except PictureError:
                    failed.append(number)
                else:
                    assert torch.equal(found.mean, expected[number].mean), (turn, number)
                    assert found.size == expected[number].size
        assert failed == [4]


def test_what_was_read_ahead_is_let_go_when_a_run_is_left(base: Base, tmp_path: Path) -> None:
    frozen = work.pictures(tmp_path / "pictures", 2) * 50
    read: list[str] = []
    busy = threading.Event()

    class Counted(LatentsCache):
        def read(self, picture: FrozenPicture, version: Version = PLAIN) -> Seen:
            read.append(picture.path)
            busy.set()
            return super().read(picture, version)

    cache = Counted(tmp_path / "cache", base, 64)
    with closing(entries(cache, [Wanted(cache.key(one), one) for one in frozen])) as coming:
        next(coming)
        assert busy.wait(60)
    assert 0 < len(read) < 20
    assert not [one for one in threading.enumerate() if one.name.startswith("pictures")]


@pytest.mark.parametrize("flip", [False, True])
def test_a_run_encodes_mirror_images_where_it_flips(
    flip: bool, base_path: Path, tmp_path: Path
) -> None:
    order = prepared(
        tmp_path / "run", base_path, compiling=False, training={"max_steps": 2},
        dataset={"flip": flip},
    )  # fmt: skip
    assert isinstance(ran(order)[-1], Finished)
    entries = list((Path(order.cache_dir) / "latents").rglob("*.safetensors"))
    assert len(entries) == 4
    assert {"mirrored_mean" in read_header(one).tensors for one in entries} == {flip}
