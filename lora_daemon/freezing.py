"""Queueing a run: its recipe resolved, its pictures and captions frozen, its directory made."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from lora_daemon import embeddings, masks, pipe, trained
from lora_daemon.bucketing import bucket
from lora_daemon.catalog import Catalog
from lora_daemon.held_out import split
from lora_daemon.library import Library
from lora_daemon.runs import Runs
from lora_daemon.service import Context, Daemon
from lora_daemon.store import Change
from shared import buckets, framing, sweeps, wire
from shared import recipe as recipes
from shared.errors import Code, LoraError
from shared.filenames import to_text, typed
from shared.files import publish
from shared.lora_keys import contents
from shared.recipe import Recipe
from shared.recipe_families import unsuited
from shared.safetensors_file import read_header
from shared.wildcards import read_wildcards

SPACE_NEEDED = 64 * 1024 * 1024  # bytes; resume states and LoRAs of a small run


class Prepared(msgspec.Struct, frozen=True):
    """A run that may be queued. ``freeze`` gets its run's id when that is known; ``fields``: more
    of the run's row; ``copies``: files that it takes over, and their names in its directory."""

    recipe: Recipe
    freeze: pipe.Freeze
    name: str
    warnings: list[str] = []
    fields: dict[str, Any] = {}
    copies: list[tuple[Path, str]] = []


class Freezer:
    """Answers CheckRecipes, StartRun and StartSweep, until the scheduler may take the runs."""

    def __init__(self, daemon: Daemon, catalog: Catalog, library: Library, runs: Runs) -> None:
        self._store = daemon.store
        self._workspace = daemon.workspace
        self._catalog = catalog
        self._library = library
        self._runs = runs
        self.make_room: Callable[[int], Awaitable[object]] = _no_room

    async def check(self, context: Context, request: wire.CheckRecipes) -> wire.Done:
        """Raises LoraError as ``start`` does, but for datasets and their pictures."""
        for text in request.recipes:
            recipe = recipes.parse(text)
            await self.suited(recipe, await self._library.base(recipe.base.name))
            await self.begun(recipe, later=request.later)
        return wire.Done()

    async def start(self, context: Context, request: wire.StartRun) -> wire.Run:
        """Raises LoraError: INVALID_RECIPE, NOT_FOUND (base, dataset, a run that it is to follow),
        INVALID_FILE (nothing to train on), STORAGE."""
        recipe = recipes.parse(request.recipe)
        prepared = await self.prepare(recipe, request.name, later=bool(request.after))
        fields = self._waiting(request.after, request.held)
        [run] = await self.queue(
            context, [msgspec.structs.replace(prepared, fields=fields)], lambda runs: runs[0]
        )
        return run

    async def sweep(self, context: Context, request: wire.StartSweep) -> wire.RunGroup:
        """Queue every run of a sweep, or none. Raises LoraError as ``start`` does."""
        fields = self._waiting(request.after, request.held)
        every = sweeps.swept(request.recipe, request.sweep)
        prepared = []
        for one in every:
            ready = await self.prepare(one.recipe, request.name, later=bool(request.after))
            words = sweeps.short(one.settings)
            stem = file_name(f"{ready.freeze.name}-{words}".replace("=", "").replace(" ", "-"))
            prepared.append(
                msgspec.structs.replace(
                    ready,
                    recipe=unnamed(ready.recipe),
                    name=f"{ready.name} {words}",
                    freeze=msgspec.structs.replace(ready.freeze, name=stem),
                    fields={**fields, "settings": one.settings},
                )
            )
        keys = ", ".join(sweeps.axis(text)[0] for text in request.sweep)
        group = self._free_group(request.name.strip() or f"{prepared[0].freeze.dataset} by {keys}")
        prepared = [
            msgspec.structs.replace(one, fields={**one.fields, "group": group}) for one in prepared
        ]
        runs = await self.queue(
            context, prepared, lambda runs: wire.RunGroup(group=group, runs=runs)
        )
        return wire.RunGroup(group=group, runs=runs)

    async def prepare(self, recipe: Recipe, name: str, *, later: bool = False) -> Prepared:
        """Everything that a run needs, checked and fixed; nothing is written yet. ``later``: it
        waits for other runs."""
        if not recipe.dataset.name:
            names = ", ".join(one.name for one in self._catalog.datasets()) or "none yet"
            raise LoraError(
                Code.INVALID_RECIPE,
                f"The recipe has no dataset.name. There is: {names}.",
                data={"key": "dataset.name"},
            )
        dataset = self._catalog.dataset(recipe.dataset.name)
        base = await self._library.base(recipe.base.name)
        await self.suited(recipe, base)
        recipe = await self.begun(recipe, later=later)
        rules = buckets.rules_of(recipe.dataset, base.resolution)
        usable, skipped, warnings = self._pictures(dataset, rules, recipe.dataset.mask_folder)
        kept_back, usable = await self._keep_back(recipe, dataset, usable, warnings)
        regular: list[pipe.FrozenPicture] = []
        if recipe.dataset.regularisation:
            other = self._catalog.dataset(recipe.dataset.regularisation)
            regular, more, _ = self._pictures(other, rules)
            skipped += more
        if recipe.dataset.mask_folder:
            usable, bare = await asyncio.to_thread(
                masks.with_masks, usable, dataset.path, recipe.dataset.mask_folder
            )
            if bare:
                warnings.append(f"{bare} of {len(usable)} pictures have no mask and count whole.")
        wildcards: dict[str, list[str]] = {}
        if recipe.dataset.wildcards:
            captions = [picture.caption for picture in usable + regular]
            wildcards = await asyncio.to_thread(
                read_wildcards, captions, recipe.dataset.wildcard_folder
            )
        recipe = msgspec.structs.replace(
            recipe,
            base=msgspec.structs.replace(recipe.base, name=base.name),
            dataset=msgspec.structs.replace(
                recipe.dataset,
                name=dataset.name,
                resolution=recipe.dataset.resolution or base.resolution,
            ),
        )
        versions = self._versions(recipe, [*usable, *regular], warnings)
        name = name.strip() or recipe.output.name or dataset.name
        freeze = pipe.Freeze(
            run="",
            name=recipe.output.name or file_name(name),
            base=base.name,
            base_path=base.path,
            base_predicts=base.objective,
            dataset=dataset.name,
            pictures=usable,
            skipped=skipped,
            queued_at=time.time(),
            held_out=kept_back,
            regularisation=regular,
            wildcards=wildcards,
            embeddings=await asyncio.to_thread(
                embeddings.named, self._workspace.embeddings, *recipe.sample.prompts,
                recipe.sample.negative,
            ),
            versions=versions,
        )  # fmt: skip
        return Prepared(recipe, freeze, name, warnings)

    async def suited(self, recipe: Recipe, base: wire.BaseModel) -> None:
        """Raises LoraError(INVALID_RECIPE): what this base cannot follow."""
        if recipe.base.family not in ("any", base.family):
            raise LoraError(
                Code.INVALID_RECIPE,
                f"This recipe is for {wire.FAMILIES[recipe.base.family]}, and the base {base.name} "
                f"is a {wire.FAMILIES[base.family]}. Take another base, or set base.family to any.",
                data={"key": "base.family"},
            )
        key, why = unsuited(recipe, base.family)
        if recipe.noise.zero_terminal_snr and base.objective == "epsilon":
            key = "noise.zero_terminal_snr"
            why = (
                f"{key} needs a base that predicts v, and {base.name} predicts the noise. Leave it "
                "off, or say what the base predicts with `lora-tui model add`."
            )
        if why:
            raise LoraError(Code.INVALID_RECIPE, why, data={"key": key})
        await asyncio.to_thread(trained.check, Path(typed(base.path)), recipe)

    async def begun(self, recipe: Recipe, *, later: bool = False) -> Recipe:
        """With the file that ``network.start`` names, looked over: a slip in it would else come out
        when the run's turn has come. ``later``: a run that is waited for may yet write it."""
        if not (start := recipe.network.start):
            return recipe
        try:
            _, path = self._library.lora(start)
        except LoraError as error:
            if later and Path(start).is_absolute():
                return recipe
            raise LoraError(
                error.code, f"network.start: {error.message}", data={"key": "network.start"}
            ) from None
        await asyncio.to_thread(lambda: contents(path, read_header(path)))
        network = msgspec.structs.replace(recipe.network, start=to_text(path))
        return msgspec.structs.replace(recipe, network=network)

    async def queue(
        self, context: Context, prepared: list[Prepared],
        answer: Callable[[list[wire.Run]], wire.Record],
    ) -> list[wire.Run]:  # fmt: skip
        """Make the runs' directories and queue them in one transaction: all of them, or none.
        ``answer``: what the request is to be answered, should it be asked again."""
        await self._check_space()
        last = self._store.query("SELECT value FROM meta WHERE key = 'last_run'")
        number = int(last[0]["value"]) + 1 if last else 1
        place = self._runs.last_place() + 1
        directories: list[Path] = []
        runs: list[wire.Run] = []
        try:
            for one in prepared:
                directory = await asyncio.to_thread(_reserve, self._workspace.runs, number)
                directories.append(directory)
                freeze = msgspec.structs.replace(one.freeze, run=directory.name)
                await asyncio.to_thread(_write, directory, one, freeze)
                number = int(directory.name[1:])
                runs.append(_queued(freeze, one, context.by, place + len(runs)))
                number += 1
            with self._store.change(context.by) as change:
                for one, run in zip(prepared, runs, strict=True):
                    self._insert(change, run, one.freeze.skipped, one.warnings)
                self._store.remember(change, context.key, answer(runs))
        except BaseException:
            for directory in directories:
                await asyncio.to_thread(shutil.rmtree, directory, True)
            raise
        for one, run in zip(prepared, runs, strict=True):
            back = len(one.freeze.held_out)
            kept = f", {back} more are kept back" if back else ""
            if versions := sum(one.freeze.versions):
                kept += f", {versions} versions are cached"
            self._runs.log(
                run.id, f"queued by {context.by}: {run.pictures} pictures of {run.dataset}{kept}"
            )
            for warning in one.warnings:
                self._runs.log(run.id, warning)
        return runs

    def _waiting(self, after: list[str], held: bool) -> dict[str, Any]:
        """Fields of a run that is to wait. Raises LoraError(NOT_FOUND)."""
        fields: dict[str, Any] = {"after": self._runs.ids(after)}
        if held:
            fields |= {"state": "paused", "phase": "paused"}
        return fields

    def _free_group(self, wanted: str) -> str:
        taken = {run.group for run in self._runs.all()}
        names = (wanted if number == 1 else f"{wanted} {number}" for number in itertools.count(1))
        return next(name for name in names if name not in taken)

    def _pictures(
        self, dataset: wire.Dataset, rules: buckets.Rules | None, mask_folder: str = ""
    ) -> tuple[list[pipe.FrozenPicture], list[tuple[str, str]], list[str]]:
        """The pictures to train on, those left out and why, and what to warn of."""
        usable, skipped = [], list[tuple[str, str]]()
        rows = self._store.query(
            "SELECT id, name, content, text, state, problem, width, height, framing FROM items"
            " WHERE dataset = ? ORDER BY name",
            (dataset.id,),
        )
        if masked := masks.inside(dataset.path, mask_folder):
            rows = [row for row in rows if not row["name"].startswith(masked)]
        rejected = 0
        for row in rows:
            path = f"{dataset.path.rstrip('/')}/{row['name']}"
            if row["state"] == "rejected":
                rejected += 1
                skipped.append((path, "rejected in review"))
            elif row["problem"]:
                skipped.append((path, row["problem"]))
            else:
                seen = framing.read(row["framing"])
                usable.append(
                    pipe.FrozenPicture(
                        item=row["id"], path=path, content=row["content"], caption=row["text"],
                        framing=seen, bucket=bucket(seen.size(row["width"], row["height"]), rules),
                    )
                )  # fmt: skip
        if not usable:
            raise LoraError(
                Code.INVALID_FILE,
                f"{dataset.name} has no picture to train on: of {len(rows)}, {rejected} are "
                f"rejected and {len(rows) - rejected} cannot be used.",
            )
        warnings = []
        bare = sum(not picture.caption.strip() for picture in usable)
        if bare == len(usable):
            warnings.append(
                "No picture has a caption: all are trained without words, and no word will call "
                f"what they teach. `lora-tui caption {dataset.name}` writes captions."
            )
        elif bare:
            warnings.append(
                f"{bare} of {len(usable)} pictures have no caption and are trained without words."
            )
        return usable, skipped, warnings

    def _versions(
        self, recipe: Recipe, pictures: list[pipe.FrozenPicture], warnings: list[str]
    ) -> list[int]:  # fmt: skip
        """How many versions of each picture are trained on: one of those that have the shape they
        are trained at, if nothing but the crop would differ. Empty: one of all."""
        count, dataset = recipes.versions(recipe), recipe.dataset
        if count == 1:
            return []
        sizes = {
            row["id"]: framing.read(row["framing"]).size(row["width"], row["height"])
            for name in filter(None, (dataset.name, dataset.regularisation))
            for row in self._store.query(
                "SELECT id, width, height, framing FROM items WHERE dataset = ?",
                (self._catalog.dataset(name).id,),
            )
        }
        square = (dataset.resolution, dataset.resolution)
        fits = [buckets.over(sizes[one.item], one.bucket or square) == (0, 0) for one in pictures]
        if dataset.random_crop and all(fits):
            warnings.append(
                "dataset.random_crop changes nothing: all pictures have the shape that they are "
                "trained at, so that nothing is cropped away. Take it out."
            )
        return [count if dataset.color_jitter or not exact else 1 for exact in fits]

    async def _keep_back(
        self, recipe: Recipe, dataset: wire.Dataset, usable: list[pipe.FrozenPicture],
        warnings: list[str],
    ) -> tuple[list[pipe.FrozenPicture], list[pipe.FrozenPicture]]:  # fmt: skip
        """The pictures to judge by, and those to train on. Raises LoraError(INVALID_RECIPE)."""
        wanted = recipes.held_out_count(recipe, len(usable))
        if names := set(recipe.evaluation.pictures):
            root = f"{dataset.path.rstrip('/')}/"
            kept = [one for one in usable if one.path.removeprefix(root) in names]
            missing = sorted(names - {one.path.removeprefix(root) for one in kept})
            if missing or len(kept) == len(usable):
                why = (
                    f"{missing[0]} is not among the usable pictures of {dataset.name}"
                    if missing
                    else "that is every picture, and none would be left to train on"
                )
                raise LoraError(
                    Code.INVALID_RECIPE, f"evaluation.pictures: {why}.",
                    data={"key": "evaluation.pictures"},
                )  # fmt: skip
            return kept, [one for one in usable if one not in kept]
        if recipe.evaluation.held_out and not wanted:
            warnings.append(
                f"Too few pictures to keep any back ({len(usable)}): which checkpoint is best will "
                "have to be seen with your own eyes."
            )
        train, kept = await asyncio.to_thread(split, usable, wanted)
        return kept, train

    async def _check_space(self) -> None:
        self._workspace.runs.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._workspace.runs).free < SPACE_NEEDED:
            await self.make_room(SPACE_NEEDED)
        free = shutil.disk_usage(self._workspace.runs).free
        if free < SPACE_NEEDED:
            raise LoraError(
                Code.STORAGE,
                f"Only {free >> 20} MiB are free on the workspace's disk "
                f"({self._workspace.root}): a run needs {SPACE_NEEDED >> 20}. Free some space.",
                retryable=True,
            )

    def _insert(
        self, change: Change, run: wire.Run, skipped: list[tuple[str, str]], warnings: list[str]
    ) -> None:
        number = int(run.id[1:])
        change.execute(
            "INSERT INTO meta (key, value) VALUES ('last_run', ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            " WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)",
            (str(number),),
        )
        self._runs.insert(change, run)
        change.executemany(
            "INSERT INTO notes (run, kind, path, text) VALUES (?, 'skipped', ?, ?)",
            [(run.id, path, reason) for path, reason in skipped],
        )
        change.executemany(
            "INSERT INTO notes (run, kind, path, text) VALUES (?, 'warning', '', ?)",
            [(run.id, text) for text in warnings],
        )


async def _no_room(needed: int) -> None:
    """Nobody is there who could make any."""


def file_name(name: str) -> str:
    """A name that is safe as a file's, near to ``name``."""
    kept = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(" .")
    return kept[:80] or "lora"


def unnamed(recipe: Recipe) -> Recipe:
    """The recipe of one of several runs: its file is called as the freeze says, not as all are."""
    output = msgspec.structs.replace(recipe.output, name="")
    return msgspec.structs.replace(recipe, output=output)


def _reserve(runs: Path, number: int) -> Path:
    """Make the directory of the first run from ``number`` on that has none."""
    while True:
        directory = runs / f"r{number:04d}"
        try:
            directory.mkdir()
            return directory
        except FileExistsError:
            number += 1


def _write(directory: Path, prepared: Prepared, freeze: pipe.Freeze) -> None:
    """Raises LoraError(STORAGE)."""
    publish(directory / "recipe.toml", recipes.dump(prepared.recipe).encode())
    publish(directory / "freeze.json", msgspec.json.format(msgspec.json.encode(freeze)))
    for path, name in prepared.copies:
        (directory / name).parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(path, directory / name)
        except OSError as error:
            raise LoraError.storage("copy", path, error) from None


def samples(recipe: Recipe, freeze: pipe.Freeze) -> list[int]:
    """How many samples each bucket has in an epoch of these pictures."""
    return buckets.shown(
        recipe, [one.bucket for one in freeze.pictures],
        [one.bucket for one in freeze.regularisation],
    )  # fmt: skip


def _queued(freeze: pipe.Freeze, prepared: Prepared, by: str, place: int) -> wire.Run:
    recipe, pictures = prepared.recipe, len(freeze.pictures)
    shown = samples(recipe, freeze)
    steps = recipes.total_steps(recipe, pictures, shown)
    run = wire.Run(
        id=freeze.run,
        name=prepared.name,
        dataset=freeze.dataset,
        base=freeze.base,
        state="queued",
        phase="",
        done=0,
        total=steps,
        step=0,
        steps=steps,
        epoch=0,
        epochs=-(-steps // recipes.steps_per_epoch(recipe, pictures, shown)),
        loss=None,
        speed=None,
        pictures=pictures,
        skipped=len(freeze.skipped),
        restarts=0,
        message="",
        lora="",
        by=by,
        created=freeze.queued_at,
        started=None,
        finished=None,
        size=0,
        rev=1,
        place=place,
    )
    return msgspec.structs.replace(run, **prepared.fields)
