"""The loss of each picture: told apart from that of its timesteps, and asked for by a filter."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from lora_daemon import filtering, pipe
from lora_daemon.picture_losses import keep, losses_of
from lora_daemon.store import Store
from shared.filters import FilterError, Range, Term, parse


def run_of(folder: Path, rows: list[str], items: int = 4) -> Path:
    folder.mkdir()
    pictures = [
        pipe.FrozenPicture(item=f"i{n}", path=f"/{n}.png", content="", caption="")
        for n in range(items + 1)
    ]
    freeze = pipe.Freeze(
        run="r0001", name="n", base="b", base_path="/b", dataset="d", pictures=pictures,
        skipped=[], queued_at=0.0,
    )  # fmt: skip
    (folder / "freeze.json").write_bytes(msgspec.json.encode(freeze))
    used = [{"index": n + 1, "key": ""} for n in range(items)]  # the first could not be read
    (folder / "pictures.json").write_bytes(msgspec.json.encode({"used": used, "skipped": []}))
    (folder / "losses.csv").write_text("step,picture,timestep,loss\n" + "".join(rows))
    return folder


def test_a_picture_is_compared_at_its_own_timesteps(tmp_path: Path) -> None:
    """The hard picture was seen at easy timesteps only, where the loss is small for all."""
    rng = random.Random(1)
    rows = []
    for step in range(1, 801):
        picture = step % 4
        timestep = rng.randrange(500, 1000) if picture == 2 else rng.randrange(1000)
        level = 0.02 if timestep >= 500 else 0.4
        hard = 1.5 if picture == 2 else 1.0
        if step <= 400 and picture == 1:
            hard = 9.0  # at first only: it was learnt
        rows.append(f"{step},{picture},{timestep},{level * hard}\n")
    found = losses_of(run_of(tmp_path / "run", [*rows, "801,0,5"]))
    assert set(found) == {"i1", "i2", "i3", "i4"}
    assert max(found, key=lambda item: found[item]) == "i3"
    others = [found[item] for item in ("i1", "i2", "i4")]
    assert found["i3"] > 1.3 * max(others)


def test_a_run_without_a_series_says_nothing(tmp_path: Path) -> None:
    assert losses_of(tmp_path) == {}
    assert losses_of(run_of(tmp_path / "run", [])) == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("loss:>0.2", Range(low=0.2, low_open=True)),
        ("loss:>p90", Range(low=90, low_open=True, percentile=True)),
        ("loss:<=p10", Range(high=10, percentile=True)),
        ("loss:p25..p75", Range(low=25, high=75, percentile=True)),
        ("loss:p50", Range(low=50, high=50, percentile=True)),
        ("loss:0.1..", Range(low=0.1)),
    ],
)
def test_the_filter_takes_losses_and_percentiles(text: str, wanted: Range) -> None:
    assert parse(text) == Term("loss", wanted)


@pytest.mark.parametrize("text", ["loss:p", "loss:>pp9", "loss:9p", "size:>p90", "loss:p9..0.5"])
def test_what_is_no_loss_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        parse(text)


def found_by(store: Store, text: str) -> list[str]:
    node = parse(text)
    assert node is not None
    query = filtering.query(node, {})
    with sqlite3.connect(store.database) as connection:
        sql = f"SELECT id FROM items WHERE dataset = ?1 AND {query.where} ORDER BY name"
        return [row[0] for row in connection.execute(sql, ["d1", *query.values])]


def test_the_last_run_that_saw_a_picture_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "db.sqlite3")
    with store.change("t") as change:
        change.execute("INSERT INTO datasets VALUES ('d1', 'd', '/d', 0)")
        change.executemany(
            "INSERT INTO items (id, dataset, name, content, width, height, size, mtime, problem,"
            " text, state, rev, source, by, at) VALUES (?, 'd1', ?, '', 1, 1, 1, 1, '', '',"
            " 'unreviewed', 1, 'file', 't', 0)", [(f"i{n}", f"{n}.png") for n in range(11)],
        )  # fmt: skip
    keep(store, "r1", {**{f"i{n}": n / 10 for n in range(10)}, "gone": 5.0})
    assert found_by(store, "loss:>p90") == []  # the largest is of a picture taken out since
    assert found_by(store, "loss:>0.75") == ["i8", "i9"]
    assert found_by(store, "loss:<p20") == ["i0", "i1"]
    assert found_by(store, "NOT loss:>=0") == ["i10"]  # no run has seen it
    keep(store, "r2", {"i0": 3.0, "i1": 0.01})
    assert found_by(store, "loss:>p90") == ["i0"]
    assert found_by(store, "loss:>2") == ["i0"]
    store.close()
