"""A stand-in for the client: a small daemon in memory, for what the real one cannot be made to do
on demand (a conflict at this very moment, a lost link, 100 000 pictures)."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from shared import filters, gallery, grids, tags, wire
from shared.affinity import Affinity
from shared.conflicts import Conflict, Place
from shared.edits import Trigger, editor, has_word
from shared.errors import Code, LoraError
from shared.health import Advice, Finding, Fix, Health
from shared.lora_cards import BlockSpectrum, LoraCard, Spectrum, Tag, advice
from shared.made_with import Made, again
from shared.mixes import Clash, MixSpec, merged
from shared.notices import Connected, Disconnected, Notice, Notices, StateReplaced
from shared.pictures import stem
from shared.probes import Probe, Remedy
from shared.state import apply
from shared.weighing import Advised, Weighed

ME = "ada"


def png(red: int = 200, green: int = 80, blue: int = 40, side: int = 64) -> bytes:
    """A picture with a gradient."""
    from PIL import Image

    image = Image.new("RGB", (side, side))
    for x in range(side):
        for y in range(side):
            image.putpixel((x, y), (red * x // side, green * y // side, blue))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def caption(text: str = "", state: wire.CaptionState = "unreviewed", rev: int = 1) -> wire.Caption:
    return wire.Caption(text=text, state=state, rev=rev, source="file", by="import", at=1.7e9)


def item(number: int, dataset: str = "d1", text: str | None = None) -> wire.Item:
    return wire.Item(
        id=f"i{number}",
        dataset=dataset,
        name=f"{number:03}.png",
        content=f"c{number}",
        width=512,
        height=512,
        size=40_000,
        problem="",
        caption=caption(f"a drawing, number {number}" if text is None else text),
    )


def run_of(number: int = 1, **changes: Any) -> wire.Run:
    base = wire.Run(
        id=f"r{number:04}",
        name="creatures",
        dataset="creatures",
        base="starter",
        state="training",
        phase="training",
        done=0,
        total=0,
        step=120,
        steps=400,
        epoch=3,
        epochs=10,
        loss=0.11,
        speed=14.0,
        pictures=40,
        skipped=0,
        restarts=0,
        message="",
        lora="",
        by=ME,
        created=1.7e9 + number,
        started=1.7e9 + number,
        finished=None,
        size=120_000,
        rev=1,
    )
    return replace(base, **changes)


def device(at: float | None = None) -> wire.DeviceUse:
    return wire.DeviceUse(
        device="cpu",
        kind="cpu",
        name="CPU",
        total=16 * 2**30,
        used=5 * 2**30,
        allocated=2 * 2**30,
        cached=0,
        context=0,
        others=0,
        utilisation=88.0,
        power=None,
        temperature=None,
        at=time.time() if at is None else at,
    )


def passes(item: wire.Item, node: filters.Node) -> bool:
    """Words, states and operators: as much as the screens' tests need."""
    match node:
        case filters.Not(part):
            return not passes(item, part)
        case filters.And(parts):
            return all(passes(item, part) for part in parts)
        case filters.Or(parts):
            return any(passes(item, part) for part in parts)
        case filters.Term("state", filters.Words(text)):
            return item.caption.state == text
        case filters.Term("" | "caption", filters.Words(text)):
            return text.lower() in item.caption.text.lower()
        case filters.Term("tokens"):
            raise LoraError(Code.WRONG_STATE, "There is no base yet.")
    raise NotImplementedError(node)


ADVISED = Advised(
    base="starter", weight=0.6, reason="The earliest weight with all of it.", prompts=[],
    weights=[Weighed(weight=one, effect=1.0, drift=one / 4) for one in (0.6, 1.0)],
)  # fmt: skip


class Daemon:
    """The state that several stand-in clients share."""

    def __init__(self, items: list[wire.Item] | None = None) -> None:
        self.state = wire.State()
        self.advised: Advised | None = None  # what a card says of its weight
        self.items: dict[str, wire.Item] = {}
        self.order: list[str] = []
        self.asked: list[wire.Request[Any]] = []
        self.undo: list[tuple[wire.Item, wire.Item]] = []
        self.redone: list[tuple[wire.Item, wire.Item]] = []
        self.keys: dict[str, Any] = {}
        self.views: dict[str, list[str]] = {}
        self.edits: dict[str, list[wire.Difference]] = {}
        self.clients: list[Client] = []
        self.seq = 0
        self.tags: list[wire.TagCount] = []
        self.candidates: dict[str, list[wire.Candidate]] = {}  # by item
        self.held: asyncio.Event | None = None  # answers wait for it
        self.points: list[wire.LivePoint] = []
        self.notes: list[str] = []  # of pictures that are painted
        self.resolution = 512
        self.view = wire.MixView(
            token="t0", rev=0, stage="waiting", step=0, steps=0, picture="", picture_rev=0,
            sharp=False, seconds=0.0, failure=None, notes=[],
        )  # fmt: skip
        self.viewed = asyncio.Event()
        self.ratings: dict[str, int] = {}
        self.other: list[gallery.Shown] = []  # imported pictures
        if items is not None:
            self.fill(items)

    def fill(self, items: list[wire.Item]) -> None:
        self.items = {entry.id: entry for entry in items}
        self.order = list(self.items)
        self.state = replace(self.state, datasets=[self.dataset("d1")])

    def dataset(self, id_: str) -> wire.Dataset:
        counts = dict.fromkeys(wire.CAPTION_STATES, 0)
        for entry in self.items.values():
            counts[entry.caption.state] += 1
        return wire.Dataset(
            id=id_,
            name="creatures",
            path="/pictures/creatures",
            items=len(self.items),
            counts=counts,
            empty=sum(not entry.caption.text for entry in self.items.values()),
            problems=sum(bool(entry.problem) for entry in self.items.values()),
            created=1.7e9,
        )

    def event(self, event: wire.AnyEvent, by: str = ME) -> None:
        self.seq += 1
        self.state = apply(self.state, event)
        for client in self.clients:
            client.tell(wire.Journalled(seq=self.seq, at=time.time(), by=by, event=event))

    def live(self, *values: wire.AnyLive) -> None:
        for client in self.clients:
            client.tell(wire.LiveUpdate(values=list(values)))

    def put(self, changed: wire.Item, by: str = ME) -> wire.Item:
        """A new revision of a caption."""
        old = self.items[changed.id]
        changed = replace(
            changed,
            caption=replace(changed.caption, rev=old.caption.rev + 1, by=by, at=1.8e9),
        )
        self.items[changed.id] = changed
        self.event(wire.CaptionChanged(dataset="d1", item=changed.id, caption=changed.caption), by)
        self.event(wire.DatasetChanged(dataset=self.dataset("d1")), by)
        return changed

    def answer(self, request: Any, by: str) -> tuple[Any, list[bytes]]:
        name = type(request).__name__
        return getattr(self, f"on_{name}")(request, by)

    def on_GetStatus(self, request: wire.GetStatus, by: str) -> Any:
        return wire.Status(
            pid=4711,
            endpoint="ipc:///x",
            home="/home/ada/lora",
            version="0.1.0",
            versions={},
            incarnation="inc",
            head_seq=self.seq,
            started=1.7e9,
            clients=[client.info for client in self.clients],
            worker=wire.Worker(state="training", device="cpu"),
            devices=[device()],
            jobs=[],
            runs=[],
            warnings=[],
        ), []

    def on_ListItems(self, request: wire.ListItems, by: str) -> Any:
        node = filters.parse(request.filter)
        ids, view = self.order, request.view
        if node is not None or request.sort is not None:
            if view not in self.views:
                view = f"v{len(self.views)}"
                found = [i for i in ids if node is None or passes(self.items[i], node)]
                sort = request.sort or wire.Sort()
                if sort != wire.Sort():
                    keys = {"state": lambda i: wire.CAPTION_STATES.index(i.caption.state)}
                    key = keys.get(sort.by, lambda i: i.name)
                    found.sort(key=lambda i: key(self.items[i]), reverse=sort.descending)
                self.views[view] = found
            ids = self.views[view]
        page = ids[request.offset : request.offset + request.limit]
        place = ids.index(request.at) if request.at in ids else -1
        items = [self.items[i] for i in page]
        return wire.Items(items=items, total=len(ids), view=view, place=place), []

    def on_CountStates(self, request: wire.CountStates, by: str) -> Any:
        ids = self.views[request.view]
        parts = [[0] * len(wire.CAPTION_STATES) for _ in range(min(request.parts, len(ids)))]
        if len(ids) <= 1000:
            for place, id_ in enumerate(ids):
                state = wire.CAPTION_STATES.index(self.items[id_].caption.state)
                parts[place * len(parts) // len(ids)][state] += 1
        return wire.StateParts(parts=parts, view=request.view), []

    def on_FindPlace(self, request: wire.FindPlace, by: str) -> Any:
        wanted, node = filters.parse(request.wanted), filters.parse(request.filter)
        assert wanted is not None
        listed = self.views.get(request.view) if node is not None else self.order
        found = [n for n, i in enumerate(listed or ()) if passes(self.items[i], wanted)]
        after = [place for place in found if place > request.after]
        place = (after or found or [None])[0]
        return wire.FoundPlace(place=place, left=len(found)), []

    def on_Look(self, request: wire.Look, by: str) -> Any:
        return wire.Done(), []

    def on_GetTags(self, request: wire.GetTags, by: str) -> Any:
        found = [tag for tag in self.tags if tags.plain(request.like) in tags.plain(tag.tag)]
        return wire.Tags(tags=found[: request.limit], total=len(self.tags)), []

    def on_GetCandidates(self, request: wire.GetCandidates, by: str) -> Any:
        item = self.items[request.item]
        return wire.Candidates(item=item, candidates=self.candidates.get(item.id, [])), []

    def on_SaveFilter(self, request: wire.SaveFilter, by: str) -> Any:
        saved = wire.SavedFilter(name=request.name, filter=request.filter, by=by, at=1.8e9)
        self.event(wire.FilterSaved(saved=saved), by)
        return saved, []

    def on_RemoveFilter(self, request: wire.RemoveFilter, by: str) -> Any:
        self.event(wire.FilterRemoved(name=request.name), by)
        return wire.Done(), []

    def on_GetItem(self, request: wire.GetItem, by: str) -> Any:
        if request.item not in self.items:
            raise LoraError(Code.NOT_FOUND, "That picture is no longer in the dataset.")
        return self.items[request.item], []

    def on_GetThumbnail(self, request: wire.GetThumbnail, by: str) -> Any:
        return wire.Thumbnail(width=64, height=64, media_type="image/png"), [png()]

    def on_GetPicture(self, request: wire.GetPicture, by: str) -> Any:
        found = next(p for p in self.state.pictures if p.id == request.picture)
        return wire.PictureFile(picture=found, media_type="image/png"), [png(40, 80, 200)]

    def shown(self) -> list[gallery.Shown]:
        """The gallery: the state's pictures, whose parameters are their prompts, and ``other``."""
        own = [
            gallery.Shown(
                id=one.id, path=one.path, origin="sample" if one.run else "made", width=one.width,
                height=one.height, created=one.created, rating=self.ratings.get(one.id, 0),
                made=Made(tool="lora-tui", prompt=one.prompt, seed=one.seed, model="starter"),
            )
            for one in self.state.pictures
        ]  # fmt: skip
        return [*own, *(replace(one, rating=self.ratings.get(one.id, 0)) for one in self.other)]

    def on_ListGallery(self, request: wire.ListGallery, by: str) -> Any:
        passes = gallery.reader(request.filter)
        found = gallery.ordered([one for one in self.shown() if passes(one)], request.order)
        page = found[request.offset : request.offset + request.limit]
        return wire.GalleryPage(total=len(found), pictures=page), []

    def on_GetGalleryPicture(self, request: wire.GetGalleryPicture, by: str) -> Any:
        one = next(one for one in self.shown() if one.id == request.picture)
        spec, left = again(one.made, ["starter"], [lora.name for lora in self.state.loras])
        blobs = [png(40, 80, 200)] if request.side or request.file else []
        return wire.GalleryFound(picture=one, spec=spec, left=left, suffix=".png"), blobs

    def on_RatePicture(self, request: wire.RatePicture, by: str) -> Any:
        self.ratings[request.picture] = request.rating
        self.event(wire.PictureRated(picture=request.picture, rating=request.rating), by)
        return wire.Done(), []

    def on_ImportPictures(self, request: wire.ImportPictures, by: str) -> Any:
        self.event(wire.GalleryChanged(imported=len(self.other)), by)
        return wire.PicturesImported(added=1, changed=0, same=0, skipped=[]), []

    def on_RemovePicture(self, request: wire.RemovePicture, by: str) -> Any:
        self.other = [one for one in self.other if one.id != request.picture]
        self.event(wire.GalleryChanged(imported=len(self.other)), by)
        return wire.Done(), []

    def on_ChangeCaption(self, request: wire.ChangeCaption, by: str) -> Any:
        entry = self.items[request.item]
        if entry.caption.rev != request.if_rev:
            raise LoraError(
                Code.CONFLICT,
                f"{entry.caption.by} changed it first.",
                data={"current": msgspec.to_builtins(entry.caption)},
            )
        state = request.state or ("edited" if request.text is not None else entry.caption.state)
        text = entry.caption.text if request.text is None else request.text
        changed = self.put(
            replace(entry, caption=replace(entry.caption, text=text, state=state)), by
        )
        self.undo.append((entry, changed))
        return changed, []

    def on_PreviewEdit(self, request: wire.PreviewEdit, by: str) -> Any:
        node = filters.parse(request.filter)
        function = editor(request.edits)
        found = []
        chosen = self.order
        if request.places:
            view = self.views[request.view]
            chosen = [id_ for first, last in request.places for id_ in view[first : last + 1]]
        for id_ in chosen:
            entry = self.items[id_]
            text, state = function(entry.caption.text), request.state or entry.caption.state
            if (node is None or passes(entry, node)) and (text, state) != (
                entry.caption.text, entry.caption.state,
            ):  # fmt: skip
                found.append(
                    wire.Difference(
                        item=id_, name=entry.name, rev=entry.caption.rev,
                        text=entry.caption.text, state=entry.caption.state, new_text=text,
                        new_state=state,
                    )
                )  # fmt: skip
        name = f"e{len(self.edits)}"
        self.edits[name] = found
        return wire.EditPreview(
            preview=name, what="an edit", changed=len(found),
            unchanged=len(self.order) - len(found), too_long=0,
        ), []  # fmt: skip

    def on_ListDifferences(self, request: wire.ListDifferences, by: str) -> Any:
        found = self.edits[request.preview]
        page = found[request.offset : request.offset + request.limit]
        return wire.Differences(differences=page, total=len(found), conflicts=0), []

    def on_ApplyEdit(self, request: wire.ApplyEdit, by: str) -> Any:
        kept = []
        for one in self.edits[request.preview]:
            entry = self.items[one.item]
            if entry.caption.rev != one.rev:
                kept.append(
                    wire.Kept(item=one.item, name=one.name, current=entry.caption,
                              text=one.new_text, state=one.new_state)
                )  # fmt: skip
                continue
            self.items[one.item] = replace(
                entry,
                caption=replace(
                    entry.caption, text=one.new_text, state=one.new_state, rev=one.rev + 1, by=by
                ),
            )
        changed = len(self.edits[request.preview]) - len(kept)
        self.event(wire.CaptionsChanged(dataset="d1", changed=changed, what="an edit"), by)
        self.event(wire.DatasetChanged(dataset=self.dataset("d1")), by)
        return wire.Edited(what="an edit", changed=changed, conflicts=len(kept), kept=kept), []

    def on_UndoCaption(self, request: wire.UndoCaption, by: str) -> Any:
        source, target = (self.redone, self.undo) if request.redo else (self.undo, self.redone)
        if not source:
            raise LoraError(Code.NOT_FOUND, "There is nothing to take back.")
        before, after = source.pop()
        target.append((after, before))
        changed = self.put(replace(before, caption=replace(before.caption)), by)
        return wire.Undone(item=changed, what=f"change of {changed.name}"), []

    def on_ImportDataset(self, request: wire.ImportDataset, by: str) -> Any:
        if not request.path.startswith("/"):
            raise LoraError(Code.NOT_FOUND, f"There is no folder {request.path}.")
        self.fill([item(n) for n in range(5)])
        self.event(wire.DatasetChanged(dataset=self.dataset("d1")))
        return wire.Imported(
            dataset=self.dataset("d1"), added=5, updated=0, problems=[], warnings=[]
        ), []

    def on_CaptionPictures(self, request: wire.CaptionPictures, by: str) -> Any:
        return wire.Captioned(
            dataset=self.dataset("d1"), written=2, kept=2, warnings=[],
            problems=[("torn.png", "it is torn")],
        ), []  # fmt: skip

    def on_SteerCaptioning(self, request: wire.SteerCaptioning, by: str) -> Any:
        return wire.Done(), []

    def on_GetHealth(self, request: wire.GetHealth, by: str) -> Any:
        """What misses the trigger word now; the rest is made up."""
        bare = [e for e in self.items.values() if not has_word("sks")(e.caption.text)]
        findings = [
            Finding(kind="unreadable", count=0),
            Finding(
                kind="no-trigger", count=len(bare), filter="NOT caption:sks",
                fix=Fix(what="put “sks” before them", filter="", edits=[Trigger("sks")]),
            ),
            Finding(kind="orphans", count=1, examples=["lost.txt"]),
            Finding(
                kind="small", count=2, filter="issue:small",
                fix=Fix(what="reject all of them", filter="issue:small", state="rejected"),
            ),
            Finding(kind="blur", count=0, unknown="3 of 20 pictures are not measured yet."),
        ]  # fmt: skip
        told = [Advice(about="framing", text="Not known.", why="Nobody looks.")]
        found = Health(
            dataset="d1", name="creatures", resolution=self.resolution, trigger="sks",
            pictures=len(self.items), unchecked=3, at=None, findings=findings, advice=told,
        )  # fmt: skip
        return wire.HealthFound(health=found), []

    def on_CheckHealth(self, request: wire.CheckHealth, by: str) -> Any:
        self.resolution = request.resolution or self.resolution
        answer, blobs = self.on_GetHealth(wire.GetHealth(dataset=request.dataset), by)
        return replace(answer, problems=[("torn.png", "is torn")] if request.measure else []), blobs

    def on_RemoveDataset(self, request: wire.RemoveDataset, by: str) -> Any:
        self.event(wire.DatasetRemoved(dataset=request.dataset))
        return wire.Done(), []

    def on_CheckRecipes(self, request: wire.CheckRecipes, by: str) -> Any:
        return wire.Done(), []

    def on_StartRun(self, request: wire.StartRun, by: str) -> Any:
        started = run_of(len(self.state.runs) + 1, state="queued", step=0)
        self.event(wire.RunChanged(run=started))
        return started, []

    def on_SteerRun(self, request: wire.SteerRun, by: str) -> Any:
        states = {"pause": "paused", "resume": "training", "stop": "stopped"}
        found = next(r for r in self.state.runs if r.id == request.run)
        changed = replace(found, state=states.get(request.action, found.state), rev=found.rev + 1)
        self.event(wire.RunChanged(run=changed))
        return changed, []

    def on_RemoveRun(self, request: wire.RemoveRun, by: str) -> Any:
        self.event(wire.RunRemoved(run=request.run))
        return wire.Done(), []

    def on_GetRun(self, request: wire.GetRun, by: str) -> Any:
        found = next(r for r in self.state.runs if r.id == request.run)
        return wire.RunDetail(
            run=found,
            recipe='title = "x"',
            directory="/runs/r0001",
            samples=[],
            checkpoints=[
                wire.Checkpoint(step=100, epoch=2, path="/runs/a.safetensors", size=9, final=False)
            ],
            skipped=[("bad.png", "truncated")],
            warnings=[],
        ), []

    def on_GetSeries(self, request: wire.GetSeries, by: str) -> Any:
        return wire.Series(points=self.points), []

    def on_GetHistory(self, request: wire.GetHistory, by: str) -> Any:
        now = time.time()
        return wire.History(samples=[device(now - n) for n in range(300, 0, -1)]), []

    def on_GetLog(self, request: wire.GetLog, by: str) -> Any:
        return wire.LogLines(lines=[f"line {n}" for n in range(request.lines)]), []

    def on_Generate(self, request: wire.Generate, by: str) -> Any:
        spec = request.spec
        picture = wire.Picture(
            id=f"p{len(self.state.pictures)}",
            path="/outputs/x.png",
            run="",
            step=0,
            prompt=spec.prompt,
            seed=spec.seed,
            width=128,
            height=128,
            parameters="",
            created=time.time(),
            notes=self.notes,
        )
        self.event(wire.PictureAdded(picture=picture))
        return picture, []

    def on_PaintGrid(self, request: wire.PaintGrid, by: str) -> Any:
        cells = grids.cells(request.spec, [grids.read(axis) for axis in request.axes])
        picture, _ = self.on_Generate(wire.Generate(spec=request.spec), by)
        sheet = replace(picture, path="/home/ana/outputs/grids/cat/grid-1.png")
        self.event(wire.PictureRemoved(picture=picture.id))
        self.event(wire.PictureAdded(picture=sheet))
        return wire.Grid(folder="/", picture=sheet, pictures=len(cells), painted=len(cells)), []

    def live_mix(self) -> wire.Mix:
        blank = wire.Mix(name="", spec=MixSpec(), rev=0, by="", at=0.0)
        return next((mix for mix in self.state.mixes if not mix.name), blank)

    def look(self, **changes: Any) -> None:
        """Something else of the mix is to be seen."""
        token = f"t{int(self.view.token[1:]) + 1}"
        self.view = replace(self.view, token=token, **changes)
        self.viewed.set()
        self.viewed = asyncio.Event()

    def on_ChangeMix(self, request: wire.ChangeMix, by: str) -> Any:
        live = self.live_mix()
        try:
            spec = merged(request.before, request.after, live.spec)
        except Clash as clash:
            raise LoraError(
                Code.CONFLICT, f"{live.by} has changed {clash.what}.",
                data={"current": msgspec.to_builtins(live)},
            ) from None  # fmt: skip
        return self.put_mix(replace(live, spec=spec), by), []

    def put_mix(self, mix: wire.Mix, by: str) -> wire.Mix:
        mix = replace(mix, rev=mix.rev + 1, by=by)
        self.event(wire.MixChanged(mix=mix), by)
        return mix

    def on_FlipMix(self, request: wire.FlipMix, by: str) -> Any:
        live = self.live_mix()
        other = live.other or live.spec
        side = "B" if live.side == "A" else "A"
        return self.put_mix(replace(live, spec=other, other=live.spec, side=side), by), []

    def on_SaveMix(self, request: wire.SaveMix, by: str) -> Any:
        return self.put_mix(replace(self.live_mix(), name=request.name, rev=0), by), []

    def on_RemoveMix(self, request: wire.RemoveMix, by: str) -> Any:
        self.event(wire.MixRemoved(name=request.name), by)
        return wire.Done(), []

    def on_WatchMix(self, request: wire.WatchMix, by: str) -> Any:
        new = self.view.picture not in ("", request.have)
        return self.view, [png(200, 200, 40)] if new else []

    def on_GetTried(self, request: wire.GetTried, by: str) -> Any:
        return wire.Thumbnail(width=64, height=64, media_type="image/png"), [png(40, 200, 40)]

    def on_ListUpscalers(self, request: wire.ListUpscalers, by: str) -> Any:
        torn = wire.Upscaler(name="torn", path="/u/torn.safetensors", problem="It is cut off.")
        sharp = wire.Upscaler(name="4x-Sharp", path="/u/4x-Sharp.safetensors")
        return wire.UpscalersFound(folder="/u", upscalers=[sharp, torn]), []

    def on_CompareLoras(self, request: wire.CompareLoras, by: str) -> Any:
        whole = Place(
            met=1, energy=[1.0, 1.0], overlap=[[1.0, -0.7], [-0.7, 1.0]],
            touched=[[0.0, 0.5], [0.5, 0.0]],
        )  # fmt: skip
        cell = replace(whole, block="OUT04", kind="cross k")
        found = Conflict(
            loras=[stem(use.lora) for use in request.loras], weights=[1.0, 1.0], measured=False,
            sentence="They pull the same keys in up.1 (OUT04).", whole=whole,
            blocks=[replace(cell, kind="")], cells=[cell], modules=[], notes=[],
        )  # fmt: skip
        return wire.LorasCompared(found=found), []

    def on_MergeLoras(self, request: wire.MergeLoras, by: str) -> Any:
        lora = replace(self.state.loras[0], name=request.name)
        return wire.LoraMerged(lora=lora, error=0.0, notes=["ink 80% → 40%"]), []

    def on_ProbeLoras(self, request: wire.ProbeLoras, by: str) -> Any:
        names = [stem(use.lora) for use in request.loras]
        turned = [replace(use, begin=0.5 * number) for number, use in enumerate(request.loras)]
        remedy = Remedy(kind="steps", loras=turned, predicted=[0.8, 0.9], measured=[0.75, 0.9])
        found = Probe(
            base=request.base, loras=names, weights=[1.0, 1.0], prompts=request.prompts or [""],
            samples=8, sentence=f"{names[0]} keeps 40% of its effect.", energy=[1.0, 1.0],
            survival=[0.4, 1.0], bands=[], blocks=[], instead=[],
            remedies=[remedy] if request.remedies else [], notes=[],
            losses=[0.23, None] if request.losses else [], seen=request.losses,
        )  # fmt: skip
        return wire.LorasProbed(found=found), []

    def on_CheckAffinity(self, request: wire.CheckAffinity, by: str) -> Any:
        own = "starter" if "ink" not in request.lora else "sd15"
        same = own == request.base
        found = Affinity(
            lora=stem(request.lora), base=request.base, fit="same" if same else "foreign",
            trained_on=own, how="hash", says="", sentence="", distance=None, alignment={},
            warning="" if same else f"{stem(request.lora)} was trained on {own}: no kin.",
        )  # fmt: skip
        return wire.AffinityFound(found=found), []

    def on_GetLoraCard(self, request: wire.GetLoraCard, by: str) -> Any:
        block = BlockSpectrum(block="OUT05", modules=9, rank=16, effective=4.0, energy=1.0)
        spectrum = Spectrum(
            rank=16, effective=4.0, energy=1.0, losses=[0.5, 0.05, *[0.0] * 14], plain=True,
            blocks=[block], modules=[], notes=[],
        )  # fmt: skip
        card = LoraCard(
            name=request.lora, path="/x.safetensors", size=9, tags=[Tag("dragon", 11)], ranks=[16],
            spectrum=spectrum if request.spectrum else None,
            advice=advice(request.lora, spectrum) if request.spectrum else "", advised=self.advised,
        )  # fmt: skip
        return wire.CardFound(found=card), []

    def on_WeighLora(self, request: wire.WeighLora, by: str) -> Any:
        self.advised = ADVISED
        return wire.LoraWeighed(lora=request.lora, advised=ADVISED, kept=True), []

    def on_IndexLoras(self, request: wire.IndexLoras, by: str) -> Any:
        found = wire.LorasIndexed(
            folders=[request.folder], added=["ink"], changed=[], gone=[], same=0, skipped=[]
        )
        return found, []

    def on_InspectLora(self, request: wire.InspectLora, by: str) -> Any:
        return wire.LoraInfo(
            path="/x.safetensors",
            size=9,
            dialect="kohya",
            rank=[8],
            alpha=[8.0],
            modules={"unet": 128},
            base_version="sd_v1",
            title="",
            trigger="blorp",
            steps=400,
            epochs=10,
            sha256="ab" * 32,
            metadata={},
        ), []

    def on_AddBase(self, request: wire.AddBase, by: str) -> Any:
        at = request.hub.id if request.hub else request.address.url if request.address else ""
        path = request.path or f"/cache/{at}"
        if "nowhere" in path:
            raise LoraError(Code.NOT_FOUND, f"There is no folder {path}.")
        name = request.name or path.rpartition("/")[2].removesuffix(".safetensors")
        guessed = "" if request.predicts or "vpred" not in name else "only its name says so"
        base = wire.BaseModel(
            name=name, path=path, family="sdxl", resolution=1024, size=6_900_000_000, problem="",
            layout="file", objective=request.predicts or "v_prediction", guessed=guessed,
            told=bool(request.predicts), zero_snr=True, precision=["F16"],
            carried={"position_ids": 1, "EMA weights": 686},
        )  # fmt: skip
        self.event(wire.BaseChanged(base=base))
        return base, []

    def on_InspectBase(self, request: wire.InspectBase, by: str) -> Any:
        [base] = [base for base in self.state.bases if base.name == request.base]
        return base, []

    def on_RemoveBase(self, request: wire.RemoveBase, by: str) -> Any:
        self.event(wire.BaseRemoved(base=request.base))
        return wire.Done(), []

    def on_RemoveLora(self, request: wire.RemoveLora, by: str) -> Any:
        self.event(wire.LoraRemoved(lora=request.lora))
        return wire.Done(), []


class Client:
    """What ``shared.client.Client`` is to the app."""

    def __init__(self, daemon: Daemon, name: str = ME) -> None:
        self.daemon = daemon
        self.name = name
        self.endpoint = "ipc:///stand-in"
        self.connected = True
        self.info = wire.ClientInfo(
            session=f"s-{name}", name=name, host="here", terminal="", since=0
        )
        self.welcome: wire.Welcome | None = wire.Welcome(
            protocol=1, incarnation="inc", head_seq=0, session=self.info.session, version="0.1.0"
        )
        self.failing: LoraError | None = None  # every call fails with it
        self._readers: list[Notices] = []
        daemon.clients.append(self)

    @property
    def state(self) -> wire.State:
        return self.daemon.state

    def tell(self, notice: Notice) -> None:
        for reader in self._readers:
            reader.put(notice, StateReplaced(self.state, self.daemon.seq))

    def notices(self) -> AsyncIterator[Notice]:
        reader = Notices()
        reader.put(StateReplaced(self.state, self.daemon.seq), StateReplaced(self.state, 0))
        self._readers.append(reader)
        return reader

    async def call(
        self,
        request: Any,
        *,
        key: str = "",
        on_progress: Callable[[int, int, str], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        return (await self.fetch(request, key=key, on_progress=on_progress))[0]

    async def fetch(
        self,
        request: Any,
        *,
        key: str = "",
        on_progress: Callable[[int, int, str], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Any:
        if self.failing is not None:
            raise self.failing
        if self.daemon.held is not None and request.changes:
            await self.daemon.held.wait()
        self.daemon.asked.append(request)
        if isinstance(request, wire.WatchMix):
            while self.daemon.view.token == request.seen:
                await self.daemon.viewed.wait()
        if on_progress is not None:
            on_progress(1, 2, "half of it")
            await asyncio.sleep(0)
        if key and key in self.daemon.keys:
            return self.daemon.keys[key]
        answer = self.daemon.answer(request, self.name)
        if key:
            self.daemon.keys[key] = answer
        return answer

    def lose(self) -> None:
        """The link is down."""
        self.failing = LoraError(Code.UNREACHABLE, "No daemon.", retryable=True)
        self.tell(Disconnected("the link broke"))

    def find_again(self) -> None:
        self.failing = None
        assert self.welcome is not None
        self.tell(Connected(self.welcome))

    async def close(self) -> None:
        self.connected = False
