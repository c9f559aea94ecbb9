"""Room on a full disk: caches and older states go in their order, and nothing else ever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_daemon import pruning
from lora_daemon.pruning import Freed, prune
from shared.safetensors_file import Tensor, write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Four cached latents, of which r0002 uses two; two runs with two states, LoRAs and samples."""
    for number, name in enumerate(("aa", "ab", "ba", "bb")):
        entry = tmp_path / "cache" / "latents" / name / f"{name}.safetensors"
        entry.parent.mkdir(parents=True)
        entry.write_bytes(bytes(1000))
        os.utime(entry, (1000 - number, 1000 - number))
    (tmp_path / "cache" / "inputs").mkdir()
    (tmp_path / "cache" / "inputs" / "x.safetensors").write_bytes(bytes(500))
    for run in ("r0001", "r0002"):
        folder = tmp_path / "runs" / run
        for step in (10, 20):
            state = folder / "state" / f"step{step:09d}.safetensors"
            write(state, {"vector": Tensor("F32", (1,), bytes(4))}, {})
        write(folder / "lora" / "a.safetensors", {"w": Tensor("F32", (1,), bytes(4))}, {})
        (folder / "samples").mkdir()
        (folder / "samples" / "step000010_00.png").write_bytes(bytes(100))
    used = {"used": [{"index": 0, "key": "aa", "more": ["bb"]}], "skipped": []}
    (tmp_path / "runs" / "r0002" / "pictures.json").write_text(json.dumps(used))
    return tmp_path


def run(name: str, started: float | None = 1.0) -> Any:
    return SimpleNamespace(id=name, started=started)


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


def emptied(home: Path, live: list[Any], needed: int, monkeypatch: pytest.MonkeyPatch) -> Freed:
    """Prune on a disk of which 1000 bytes are free, and what was removed."""
    before = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())

    def usage(_: Path) -> Any:
        now = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        return SimpleNamespace(free=1000 + before - now)

    monkeypatch.setattr(pruning.shutil, "disk_usage", usage)
    return prune(home / "cache", home / "runs", live, needed)


def test_all_that_can_be_spared_goes_and_no_more(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(home)
    freed = emptied(home, [run("r0002")], 10**9, monkeypatch)
    assert before - files(home) == {
        "cache/latents/ab/ab.safetensors", "cache/latents/ba/ba.safetensors",
        "cache/inputs/x.safetensors", "runs/r0001/state/step000000010.safetensors",
    }  # fmt: skip
    assert (freed.latents, freed.inputs, freed.states) == (2, 1, 1) and freed.size > 2500
    assert "2 cached latents files, 1 measured inputs file, 1 older resume state (" in str(freed)


def test_what_was_used_longest_ago_goes_first_and_only_as_much_as_is_needed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(home)
    emptied(home, [], 2500, monkeypatch)
    gone = {"cache/latents/bb/bb.safetensors", "cache/latents/ba/ba.safetensors"}
    assert before - files(home) == gone
    assert emptied(home, [], 1000, monkeypatch) == Freed()


def test_a_run_that_is_caching_keeps_what_it_has_cached(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "runs" / "r0002" / "pictures.json").unlink()
    freed = emptied(home, [run("r0002", started=999.5)], 10**9, monkeypatch)
    assert freed.latents == 3
    assert (home / "cache" / "latents" / "aa" / "aa.safetensors").exists()


def test_the_older_state_stays_where_the_newest_is_torn(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = home / "runs" / "r0001" / "state" / "step000000020.safetensors"
    newest.write_bytes(newest.read_bytes()[:20])
    assert emptied(home, [run("r0002")], 10**9, monkeypatch).states == 0
