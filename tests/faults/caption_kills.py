"""``kill -9`` of the daemon at random moments while four clients edit captions and somebody edits
their files, and a comparison of what was acknowledged with database and files after every kill.

    python -m tests.faults.caption_kills --work DIR --kills 200 --seed 1

DIR keeps the workspace, the log of what was acknowledged and the tally: the same command again goes
on where it was broken off.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from shared import edits, launch, wire
from shared.client import Client
from shared.errors import Code, LoraError

PATIENCE = 300.0  # seconds for anything on a busy machine
PICTURES = 40
CLIENTS = ("anna", "ben", "chen", "dora")
OUTSIDE_EVERY = 0.15  # seconds between two changes of files by somebody else
BOM = b"\xef\xbb\xbf"
EXPECTED = (Code.CONFLICT, Code.WRONG_STATE, Code.NOT_FOUND, Code.UNREACHABLE)


class Act(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the log: something begun, or acknowledged (then with the answer)."""

    number: int
    kind: str  # set, state, bulk, undo, redo, outside
    by: str = ""
    acknowledged: bool = False
    item: str = ""
    rev: int = 0
    text: str = ""
    state: str = ""
    changed: int = 0  # captions


class Tally(msgspec.Struct):
    """What a campaign remembers between two starts."""

    seed: int
    kills: list[str] = []  # what was being asked at the moment, most first
    acts: int = 0  # numbers given


class Campaign:
    """A workspace under fire."""

    def __init__(self, work: Path, seed: int, *, outside: bool = True) -> None:
        self.home, self.folder = work / "home", work / "set"
        self._outside = outside
        self._file = work / "tally.json"
        work.mkdir(parents=True, exist_ok=True)
        self.tally = (
            msgspec.json.decode(self._file.read_bytes(), type=Tally)
            if self._file.exists()
            else Tally(seed)
        )
        self._log = os.open(work / "acts.log", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._database = self.home / "lora-tui.sqlite3"
        lines = (work / "acts.log").read_bytes().splitlines()
        self._acts = [msgspec.json.decode(line, type=Act) for line in lines if line]
        self.tally.acts = max([self.tally.acts, *(act.number for act in self._acts)])
        self._clients: dict[str, Client] = {}
        self._open = asyncio.Event()  # the four may edit
        self._asking: dict[str, str] = {}  # client → kind of act under way
        self._items: list[str] = []

    async def run(self, kills: int) -> None:
        """Reach ``kills`` in all. Raises AssertionError naming what was lost, or is not as it
        should be."""
        os.environ.setdefault("LORA_TUI_THREADS", "1")
        await self._prepare()
        people = [asyncio.create_task(self._edit(name)) for name in CLIENTS]
        if self._outside:
            people.append(asyncio.create_task(self._edit_files()))
        try:
            while (number := len(self.tally.kills)) < kills:
                dice = random.Random(f"{self.tally.seed}/{number}")
                self._open.set()
                await self._while_well(people, dice.uniform(0, 1))
                asked = Counter(self._asking.values()).most_common()
                await self._kill(dice, number)
                self._open.clear()
                await launch.ensure(self.home, PATIENCE)
                async with asyncio.timeout(PATIENCE):
                    while self._asking:
                        await self._while_well(people, 0.02)
                self.tally.kills.append(", ".join(kind for kind, _ in asked) or "nothing")
                await self._compare()
                self._save()
                print(f"{number + 1:3} while asked for {self.tally.kills[-1]}", flush=True)
        finally:
            for task in people:
                task.cancel()
            await asyncio.gather(*people, return_exceptions=True)
            await self._end()

    async def _prepare(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir()
            for number in range(PICTURES):
                path = self.folder / f"{number:03}.png"
                Image.new("RGB", (64, 64), (number * 6, 90, 160)).save(path)
                path.with_suffix(".txt").write_bytes(_bytes(number, f"thing {number}"))
        await launch.ensure(self.home, PATIENCE)
        for name in CLIENTS:
            await self._attach(name)
        client = self._clients[CLIENTS[0]]
        if not client.state.datasets:
            await client.call(wire.ImportDataset(path=str(self.folder)))
        listed = await client.call(wire.ListItems(dataset="set"))
        self._items = [item.id for item in listed.items]

    async def _attach(self, name: str) -> None:
        self._clients[name] = await Client.connect(
            home=self.home, name=name, subscribe=name == CLIENTS[0], timeout=PATIENCE
        )

    async def _end(self) -> None:
        for client in self._clients.values():
            with contextlib.suppress(LoraError):
                await client.call(wire.Stop(now=True), timeout=PATIENCE)
            await client.close()
        os.close(self._log)

    async def _while_well(self, people: list[asyncio.Task[None]], seconds: float) -> None:
        """Let them work; what one of them raises ends the campaign."""
        done, _ = await asyncio.wait(people, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def _kill(self, dice: random.Random, number: int) -> None:
        """Kill the daemon; each fifth time a client with it, and each seventh the next daemon while
        it begins."""
        await self._kill_daemon()
        if number % 5 == 4:
            name = dice.choice(CLIENTS)
            old = self._clients[name]
            await launch.ensure(self.home, PATIENCE)
            await old.close()  # what it has asked for and not heard of stays open
            await self._attach(name)
        if number % 7 == 6:
            starting = asyncio.create_task(launch.ensure(self.home, PATIENCE))
            await asyncio.wait([starting], timeout=dice.uniform(0, 2))
            await self._kill_daemon()
            await starting

    async def _kill_daemon(self) -> None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            status = msgspec.json.decode((self.home / "run" / "status.json").read_bytes())
            os.kill(status["pid"], signal.SIGKILL)
            await launch.wait_gone(status["pid"], PATIENCE)

    # ── what they do ────────────────────────────────────────────────────────────────────────────

    async def _edit(self, name: str) -> None:
        dice = random.Random(f"{self.tally.seed}/{name}/{len(self.tally.kills)}")
        while True:
            await self._open.wait()
            kind = dice.choices(("set", "state", "bulk", "undo", "redo"), (8, 3, 1, 2, 1))[0]
            self._asking[name] = kind
            try:
                await self._act(name, kind, dice.choice(self._items), dice)
            except LoraError as error:
                if error.code not in EXPECTED:
                    raise
            finally:
                del self._asking[name]
            await asyncio.sleep(0)

    async def _act(self, name: str, kind: str, item: str, dice: random.Random) -> None:
        client, number = self._clients[name], self._number()
        begun = Act(number, kind, name, item=item)
        if kind in ("undo", "redo"):
            undone = await client.call(wire.UndoCaption(dataset="set", redo=kind == "redo"))
            self._note(_answered(begun, undone.item, undone.changed))
            return
        if kind == "bulk":
            tag = edits.AddTag(tag=f"bulk{number}")
            half = dice.sample(self._items, PICTURES // 2)
            preview = await client.call(wire.PreviewEdit(dataset="set", edits=[tag], items=half))
            self._note(
                msgspec.structs.replace(begun, item="", text=preview.what, changed=len(half))
            )
            edited = await client.call(wire.ApplyEdit(preview=preview.preview))
            self._note(
                msgspec.structs.replace(
                    begun, item="", text=edited.what, changed=edited.changed, acknowledged=True
                )
            )
            return
        now = await client.call(wire.GetItem(dataset="set", item=item))
        change = wire.ChangeCaption(
            dataset="set", item=item, if_rev=now.caption.rev,
            text=f"edit {number}, by {name}\nsecond line {number}" if kind == "set" else None,
            state=dice.choice(("accepted", "flagged", "unreviewed")) if kind == "state" else None,
        )  # fmt: skip
        self._note(msgspec.structs.replace(begun, text=change.text or ""))
        self._note(_answered(begun, await client.call(change)))

    async def _edit_files(self) -> None:
        """Somebody with an editor of his own, who knows nothing of us."""
        dice = random.Random(f"{self.tally.seed}/outside/{len(self.tally.kills)}")
        while True:
            await self._open.wait()
            number, place = self._number(), dice.randrange(PICTURES)
            self._note(Act(number, "outside", item=f"{place:03}.png", text=f"outside {number}"))
            part = self.folder / f".part{number}"
            part.write_bytes(_bytes(place, f"outside {number}"))
            part.replace(self.folder / f"{place:03}.txt")
            await asyncio.sleep(OUTSIDE_EVERY)

    def _number(self) -> int:
        self.tally.acts += 1
        return self.tally.acts

    def _note(self, act: Act) -> None:
        self._acts.append(act)
        os.write(self._log, msgspec.json.encode(act) + b"\n")
        os.fsync(self._log)

    # ── what must be true after every kill ──────────────────────────────────────────────────────

    async def _compare(self) -> None:
        """Wait until the files have followed, then hold log, database and files against another."""
        why = ""
        try:
            async with asyncio.timeout(PATIENCE):
                while why := await asyncio.to_thread(self._behind):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(why) from None
        with self._rows() as rows:
            ((well,),) = rows("PRAGMA integrity_check")
            assert well == "ok", well
            self._compare_log(rows)
            self._compare_rows(rows)
            self._compare_files(rows)

    @contextlib.contextmanager
    def _rows(self) -> Any:
        address = f"{self._database.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            yield lambda sql, *values: connection.execute(sql, values).fetchall()

    def _behind(self) -> str:
        """What has not been taken in yet; empty: nothing."""
        with self._rows() as rows:
            if pending := rows("SELECT name FROM items WHERE pending = 1"):
                return f"{pending} are not in their files"
            known = {text for (text,) in rows("SELECT text FROM revisions WHERE source = 'file'")}
        written = [act for act in self._acts if act.kind == "outside"]
        last = {act.item: act for act in written}.values()  # those before it may never be seen
        missing = [act.text for act in last if act.text not in known]
        return f"{missing} of files were not noticed" if missing else ""

    def _compare_log(self, rows: Any) -> None:
        kept = {(item, rev): row for item, rev, *row in rows(
            "SELECT item, rev, text, state, by FROM revisions")}  # fmt: skip
        own = Counter(text for (text,) in rows(
            "SELECT text FROM revisions JOIN ops USING (op)"
            " WHERE undoes IS NULL AND what LIKE 'edit of %'"))  # fmt: skip
        bulk: dict[str, list[int]] = {}
        for what, number in rows(
            "SELECT what, (SELECT count(*) FROM revisions r WHERE r.op = ops.op) FROM ops"
            " WHERE undoes IS NULL AND what LIKE 'add tag%'"
        ):
            bulk.setdefault(what, []).append(number)
        for act in self._acts:
            if act.acknowledged and act.item:
                there = kept.get((act.item, act.rev))
                assert there == [act.text, act.state, act.by], f"{act}: there is {there}"
            if act.kind == "set" and act.text:
                assert own[act.text] <= 1, f"made {own[act.text]} times: {act}"
                assert own[act.text] or not act.acknowledged, f"lost: {act}"
            if act.kind == "bulk":
                made = bulk.get(act.text, [])
                assert len(made) <= 1, f"made {len(made)} times: {act}"
                assert not made or 0 < made[0] <= act.changed, f"{act}: {made[0]} captions"
                assert not act.acknowledged or sum(made) == act.changed, f"{act}: {made}"

    def _compare_rows(self, rows: Any) -> None:
        """Each caption is its last revision, none of them is missing, and what is kept beside
        captions is of these."""
        broken = rows(
            "SELECT i.name, i.rev, count(*), max(r.rev) FROM items i JOIN revisions r"
            " ON r.item = i.id GROUP BY i.id HAVING count(*) <> i.rev OR max(r.rev) <> i.rev"
        )
        assert not broken, f"revisions are missing: {broken}"
        differ = rows(
            "SELECT i.name, i.text, r.text FROM items i JOIN revisions r ON r.item = i.id"
            " AND r.rev = i.rev WHERE (i.text, i.state, i.by) IS NOT (r.text, r.state, r.by)"
        )
        assert not differ, f"not the last revision: {differ}"
        for text, tags in rows("SELECT text, tags FROM items"):
            parts = [part.strip() for part in text.lower().replace("\n", ",").split(",")]
            assert tags == f",{','.join(parts)},", (text, tags)
        counted = rows("SELECT state, items FROM counts WHERE items > 0 ORDER BY state")
        assert counted == rows("SELECT state, count(*) FROM items GROUP BY state ORDER BY state")

    def _compare_files(self, rows: Any) -> None:
        assert not list(self.folder.glob(".*.lora-tui")), "a half-written file is left"
        for item, name, text, pending in rows("SELECT id, name, text, pending FROM items"):
            path = self.folder / name.replace(".png", ".txt")
            found = path.read_bytes()
            if pending == 2:  # both were changed: the file is as somebody left it
                texts = [one for (one,) in rows("SELECT text FROM revisions WHERE item = ?", item)]
                assert found in [_bytes(int(path.stem), one) for one in texts], f"{name}: {found!r}"
            else:
                assert found == _bytes(int(path.stem), text), f"{name}: {found!r} for {text!r}"

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(self.tally))
        part.replace(self._file)


def _answered(begun: Act, item: wire.Item, changed: int = 1) -> Act:
    caption = item.caption
    return Act(
        begun.number, begun.kind, caption.by, True, item.id, caption.rev, caption.text,
        caption.state, changed,
    )  # fmt: skip


def _bytes(number: int, text: str) -> bytes:
    """A caption file as its owner has it: of four kinds of line ends and byte order marks."""
    match number % 4:
        case 0:
            return f"{text}\n".encode()
        case 1:
            return f"{text}\n".replace("\n", "\r\n").encode()
        case 2:
            return BOM + f"{text}\n".encode()
        case _:
            return text.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    campaign = Campaign(options.work.absolute(), options.seed)
    asyncio.run(campaign.run(options.kills))
    print(Counter(campaign.tally.kills))


if __name__ == "__main__":
    main()
