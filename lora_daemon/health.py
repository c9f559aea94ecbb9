"""The health of a dataset: checks begun, joined and cancelled; what is known told at any time.

What files are like is measured once and kept. What captions are like is looked up when asked, so
that no finding outlives the edit that mended it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from lora_daemon.advice import RESOLUTIONS, Known, advice
from lora_daemon.caption_facts import SAMPLE, CaptionFacts, CaptionLore
from lora_daemon.catalog import Catalog
from lora_daemon.health_check import HealthCheck
from lora_daemon.issues import GROUP
from lora_daemon.jobs import Jobs
from lora_daemon.service import Context, Daemon
from lora_daemon.tokens import Tokens
from lora_daemon.views import Views
from shared import health, wire
from shared.edits import MOST_EDITS, RenameTag, Trigger, has_word
from shared.errors import Code, LoraError
from shared.health import KINDS, LOOKS, MOST_EXAMPLES, RESOLUTION, Finding, Fix

MEASURING = "1"  # of picture_facts.py; another one measures everything anew
SIDE_BY_SIDE = 6  # names of one group of duplicates
_FILES = ("near", *LOOKS)  # that need measuring


class Health:
    """Answers CheckHealth and GetHealth."""

    def __init__(
        self, daemon: Daemon, catalog: Catalog, views: Views, tokens: Tokens, lore: CaptionLore,
        jobs: Jobs,
    ) -> None:  # fmt: skip
        self._store = daemon.store
        self._catalog = catalog
        self._views = views
        self._tokens = tokens
        self._lore = lore
        self._jobs = jobs
        self._checks: dict[str, tuple[HealthCheck, asyncio.Task[None]]] = {}  # by dataset

    def start(self) -> None:
        """Forget what an earlier version has measured in another way."""
        known = self._store.query("SELECT value FROM meta WHERE key = 'measuring'")
        if not known or known[0]["value"] != MEASURING:
            with self._store.change("daemon") as change:
                change.execute("DELETE FROM facts")
                change.execute("INSERT OR REPLACE INTO meta VALUES ('measuring', ?)", (MEASURING,))

    async def close(self) -> None:
        """End checks; they are taken up by checking again."""
        for _, task in list(self._checks.values()):
            task.cancel()
            await asyncio.wait([task])

    async def get(self, context: Context, request: wire.GetHealth) -> wire.HealthFound:
        """Raises LoraError(NOT_FOUND)."""
        row = self._catalog.row(request.dataset)
        return wire.HealthFound(health=await self._told(row["id"], row["name"]))

    async def check(self, context: Context, request: wire.CheckHealth) -> wire.HealthFound:
        """Check, or join the check under way. Cancelling the last request that waits cancels it.

        Raises LoraError: NOT_FOUND, BAD_REQUEST, WRONG_STATE, WORKER_FAILED, STORAGE.
        """
        row = self._catalog.row(request.dataset)
        dataset = str(row["id"])
        self._set(context.by, dataset, request)
        problems = list[tuple[str, str]]()
        if request.measure:
            problems = await self._checked(context, dataset)
        told = await self._told(dataset, row["name"])
        return wire.HealthFound(health=told, problems=problems[:MOST_EXAMPLES])

    async def _checked(self, context: Context, dataset: str) -> list[tuple[str, str]]:
        if dataset not in self._checks:
            work = HealthCheck(self._store, self._catalog, self._jobs, dataset, context.by)
            task = asyncio.create_task(work.run(), name=f"health of {dataset}")
            self._checks[dataset] = (work, task)
            task.add_done_callback(lambda _: self._checks.pop(dataset))
        work, task = self._checks[dataset]
        work.watchers.append(context.progress)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            work.watchers.remove(context.progress)
            if not work.watchers and not task.done():
                task.cancel()
            raise
        return work.problems

    def _set(self, by: str, dataset: str, request: wire.CheckHealth) -> None:
        """Keep what the set is to be checked for."""
        if not (request.resolution == 0 or 64 <= request.resolution <= 8192):
            raise LoraError(Code.BAD_REQUEST, "The resolution is 64 to 8192 pixels.")
        if request.trigger:
            has_word(request.trigger)
        known = self._store.query("SELECT * FROM checks WHERE dataset = ?", (dataset,))
        before = (known[0]["resolution"], known[0]["trigger_word"]) if known else (RESOLUTION, "")
        trigger = before[1] if request.trigger is None else request.trigger.strip()
        now = (request.resolution or before[0], trigger)
        if known and now == before:
            return
        with self._store.change(by) as change:
            change.execute(
                "INSERT INTO checks VALUES (?1, ?2, ?3, NULL, '[]') ON CONFLICT DO UPDATE SET"
                " resolution = ?2, trigger_word = ?3", (dataset, *now),
            )  # fmt: skip
            change.emit(wire.DatasetChanged(dataset=self._catalog.dataset(dataset)))

    # ── what is told ────────────────────────────────────────────────────────────────────────────

    async def _told(self, dataset: str, name: str) -> health.Health:
        rows = self._store.query("SELECT * FROM checks WHERE dataset = ?", (dataset,))
        settings = rows[0] if rows else None
        resolution = int(settings["resolution"]) if settings else RESOLUTION
        facts = await self._lore.of(dataset)
        unknown = await self._unknown(dataset, settings)
        wanted = {
            kind: health.shown(KINDS[kind])
            for kind in KINDS
            if KINDS[kind].filter and kind not in unknown
        }
        asked = ["NOT state:rejected", "issue:unchecked NOT state:rejected", "dup:extra"]
        counts = await self._views.counts(dataset, [*asked, *wanted.values()])
        pictures, unchecked, again = counts[:3]
        counted = dict(zip(wanted, counts[3:], strict=True))
        left = "" if not unchecked else f"{unchecked} of {pictures} pictures are not measured yet."
        orphans: list[str] = json.loads(settings["orphans"]) if settings else []
        counted["orphans"] = len(orphans)
        findings = []
        for kind in KINDS:
            examples, more = await self._examples(dataset, kind, counted.get(kind, 0), facts)
            if kind == "orphans":
                examples, more = orphans[:MOST_EXAMPLES], max(len(orphans) - MOST_EXAMPLES, 0)
            findings.append(
                Finding(
                    kind=kind,
                    count=counted.get(kind, 0),
                    filter=wanted.get(kind, ""),
                    examples=examples,
                    more=more,
                    fix=_fix(kind, facts, self._lore.trigger(dataset))
                    if counted.get(kind)
                    else None,
                    unknown=unknown.get(kind, left if kind in _FILES else ""),
                )
            )
        return health.Health(
            dataset=dataset,
            name=name,
            resolution=resolution,
            trigger=self._lore.trigger(dataset),
            pictures=pictures,
            unchecked=unchecked,
            at=settings["at"] if settings else None,
            findings=findings,
            advice=advice(self._known(dataset, resolution, again, facts)),
        )

    async def _unknown(self, dataset: str, settings: sqlite3.Row | None) -> dict[str, str]:
        """Kinds that cannot be looked for, and why."""
        unknown = {}
        if settings is None or not settings["trigger_word"]:
            unknown["no-trigger"] = "No trigger word is set."
        if settings is None:
            unknown["small"] = "No resolution is set: check once."
        if settings is None or settings["at"] is None:
            unknown["orphans"] = "The folder was not looked through yet: check once."
        try:
            await self._tokens.complete(dataset)
        except LoraError as error:
            unknown["long"] = error.message
        return unknown

    async def _examples(
        self, dataset: str, kind: str, count: int, facts: CaptionFacts
    ) -> tuple[list[str], int]:
        """What a kind consists of where that is not just pictures, and how much more there is."""
        if not count:
            return [], 0
        found: Sequence[str] = ()
        if kind in ("copies", "near"):
            found = await self._groups(dataset, KINDS[kind].filter)
        elif kind in ("unreadable", "truncated"):
            found = [f"{r['name']} {r['problem']}" for r in self._few(dataset, "problem <> ''")
                     if ("cut short" in r["problem"]) == (kind == "truncated")]  # fmt: skip
        elif kind == "profile":
            found = [
                f"{row['profile']} ({row['n']})"
                for row in self._store.query(
                    "SELECT profile, count(*) AS n FROM items JOIN facts USING (content)"
                    " WHERE dataset = ? AND profile <> '' AND state <> 'rejected'"
                    " GROUP BY profile ORDER BY n DESC", (dataset,),
                )
            ]  # fmt: skip
        elif kind == "stem":
            found = facts.stems
        elif kind == "tag-everywhere":
            found = [f"{tag} ({number})" for tag, number in facts.everywhere]
        elif kind == "tag-once":
            found = facts.once
        elif kind == "tag-twin":
            found = [f"{slip} → {tag} ({number})" for slip, tag, number in facts.twins]
        return list(found[:MOST_EXAMPLES]), max(len(found) - MOST_EXAMPLES, 0)

    async def _groups(self, dataset: str, filter: str) -> list[str]:
        """The first groups of duplicates, their names side by side."""
        places = await self._views.places(dataset, filter)
        called = GROUP.replace("?1", "items.dataset")
        rows = self._store.query(
            f"SELECT rowid AS place, name, {called} AS called FROM items"
            " WHERE rowid IN (SELECT value FROM json_each(?))",
            (json.dumps(places[: 10 * MOST_EXAMPLES].tolist()),),
        )
        by_place = {row["place"]: row for row in rows}
        shown = [by_place[place] for place in places[: 10 * MOST_EXAMPLES] if place in by_place]
        groups = itertools.groupby(shown, key=lambda row: row["called"])
        together = [[row["name"] for row in group] for _, group in groups]
        return [" = ".join([*some[:SIDE_BY_SIDE], *["…"] * (len(some) > SIDE_BY_SIDE)])
                for some in together]  # fmt: skip

    def _few(self, dataset: str, where: str) -> list[sqlite3.Row]:
        return self._store.query(
            f"SELECT name, problem FROM items WHERE dataset = ? AND state <> 'rejected' AND {where}"
            " ORDER BY name LIMIT 1000", (dataset,),
        )  # fmt: skip

    def _known(self, dataset: str, resolution: int, again: int, facts: CaptionFacts) -> Known:
        sizes = sorted({*RESOLUTIONS, resolution})
        sums = ", ".join(f"sum(min(width, height) >= {size}) AS s{size}" for size in sizes)
        (row,) = self._store.query(
            f"SELECT count(*) AS n, {sums}, sum(height >= 1.2 * width) AS upright,"
            " sum(width >= 1.2 * height) AS wide FROM items NOT INDEXED WHERE dataset = ?"
            " AND problem = '' AND state <> 'rejected'", (dataset,),
        )  # fmt: skip
        upright, wide = row["upright"] or 0, row["wide"] or 0
        return Known(
            pictures=row["n"],
            again=again,
            resolution=resolution,
            reach={size: row[f"s{size}"] or 0 for size in sizes},
            upright=upright,
            square=row["n"] - upright - wide,
            wide=wide,
            captions=min(facts.captions, SAMPLE),
            framing=facts.framing,
        )


_REJECTED: Mapping[str, tuple[str, str]] = {
    "copies": ("leave out all but one of each", "dup:copy"),
    "near": ("leave out all but the best of each group", "dup:extra"),
    **{
        kind: ("reject all of them", health.shown(KINDS[kind]))
        for kind in ("small", "blur", "dark", "bright")
    },
}


def _fix(kind: str, facts: CaptionFacts, trigger: str) -> Fix | None:
    """What mends a kind, where something does."""
    if kind in _REJECTED:
        what, filter = _REJECTED[kind]
        return Fix(what=what, filter=filter, state="rejected")
    if kind == "no-trigger":
        shown = health.shown(KINDS[kind])
        return Fix(what=f"put “{trigger}” before them", filter=shown, edits=[Trigger(trigger)])
    if kind == "tag-twin":
        shown = health.shown(KINDS[kind])
        renamed = _renames(facts.twins)
        more = len(facts.twins) - len(renamed)
        what = f"spell {'them' if len(renamed) > 1 else 'it'} as the frequent one"
        if more:
            what += f" (the first {len(renamed)}; {more} more after that)"
        return Fix(what=what, filter=shown, edits=list(renamed))
    return None


def _renames(twins: Iterable[tuple[str, str, int]]) -> list[RenameTag]:
    return [RenameTag(slip, tag) for slip, tag, _ in itertools.islice(twins, MOST_EDITS)]
