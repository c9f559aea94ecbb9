"""What a run is fed: its frozen pictures as latents and captions as embeddings, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import psutil
import torch
from torch import Tensor

from lora_daemon.engine.ahead import Wanted, entries
from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, Moments, PictureError
from lora_daemon.engine.captions import reading, shown, varies
from lora_daemon.engine.noises import draw_noise, draw_timestep
from lora_daemon.engine.randomness import generator, shuffled
from lora_daemon.engine.versions import PLAIN, versions_of
from lora_daemon.pipe import Freeze, FrozenPicture
from shared import buckets
from shared.errors import Code, LoraError
from shared.files import publish
from shared.framing import Size
from shared.recipe import Recipe, pictures_per_step, steps_per_epoch
from shared.recipe_schema import Dataset

TEXTS_AT_ONCE = 8  # on a GPU
T = TypeVar("T")
Look = Callable[[int, int], None]  # called between two versions with those done and their number


class Used(msgspec.Struct, frozen=True):
    """A picture that the run uses: its place in the freeze, and its entry in the cache. ``more``:
    the entries of its versions after the first."""

    index: int
    key: str
    more: list[str] = []


class Choice(msgspec.Struct, frozen=True):
    """``pictures.json`` in the run directory: which pictures are used, fixed before the first step,
    so that a resumed run has the same sample indices. ``skipped``: (path, reason)."""

    used: list[Used]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Batch:
    """What goes through the base at once, on its device. n: its pictures; the last has fewer.

    ``latents``, ``noise``: float32 (n, channels, h/8, w/8); ``mixed``: the noise to mix in, which
    is ``noise`` unless the input is perturbed; ``timesteps``: int64 (n,); ``text``: conditioning
    (n, rows, width) in the base's dtype; ``share``: of the step's pictures that are in this batch;
    ``views``: float32 (n, 6), as ``Base.denoise`` takes them, where the family does; ``pictures``:
    their places in the run's list; ``first``: the slot of the first among the step's pictures;
    ``counts``: what each place of each picture counts in the loss,
    float32 (n, 1, h, w) or (n, 1, 1, 1), where they differ.
    """

    latents: Tensor
    noise: Tensor
    mixed: Tensor
    timesteps: Tensor
    text: Tensor
    share: float
    views: Tensor | None = None
    pictures: tuple[int, ...] = ()
    first: int = 0
    counts: Tensor | None = None


class Showing(NamedTuple):
    """``picture``: its place in the run's list; ``time``: how often it was shown before."""

    picture: int
    time: int


class Feed:
    """All samples of a run in memory, and the batch of any step, in any order of asking.

    A batch is of one bucket: of pictures whose latents have one size. ``moments``: of each picture
    those of its versions, which are shown in turn. ``regular``: how many of the ``moments`` and
    ``captions``, the last ones, are of pictures for regularisation. ``masks``: what counts of each
    version, float32 (h/8, w/8) in 0 … 1. ``wildcards``: lines to choose from, by name.
    """

    def __init__(
        self, recipe: Recipe, base: Base, moments: Sequence[Sequence[Moments]],
        captions: list[str], regular: int = 0, masks: Sequence[Sequence[Tensor]] | None = None,
        wildcards: Mapping[str, list[str]] | None = None,
    ) -> None:  # fmt: skip
        self.base = base
        self.seed = recipe.training.seed
        self.flip = recipe.dataset.flip
        self.dataset, self.noise = recipe.dataset, recipe.noise
        self.batch_size = recipe.training.batch_size
        self.accumulation = recipe.training.accumulation
        self.per_step = pictures_per_step(recipe)
        self.parts = recipe.training.num_processes
        self.repeats = recipe.dataset.repeats
        self.moments = moments
        self.captions = captions
        self.trained = len(moments) - regular
        self.sizes = [  # width and height in pixels that each picture is trained at
            (
                one.mean.shape[-1] * base.pixels_per_latent,
                one.mean.shape[-2] * base.pixels_per_latent,
            )
            for one, *_ in moments
        ]
        trained, others = self.sizes[: self.trained], self.sizes[self.trained :]
        self.shown = buckets.shown(recipe, trained, others)  # samples of each bucket in an epoch
        self.steps_per_epoch = steps_per_epoch(recipe, self.trained, self.shown)
        self.prior = recipe.loss.prior_weight
        self.wildcards = wildcards or {}
        self.masks = None
        if masks is not None:
            least = recipe.loss.unmasked_weight
            self.masks = [[one.clamp(min=least) for one in several] for several in masks]
        self.timesteps = (
            # At timestep 0 of a flow there is no noise to be seen, and so nothing to learn.
            max(recipe.noise.min_timestep, int(base.family.flows)),
            min(recipe.noise.max_timestep, len(base.alphas_cumprod)),
        )
        self.reading = reading(recipe)
        self.learns_text = recipe.optimizer.text_encoder_rate > 0
        ahead = [] if self.learns_text or varies(recipe.dataset) else dict.fromkeys(captions)
        if recipe.dataset.caption_dropout and not self.learns_text:
            ahead = [*ahead, ""]
        self._texts = self._embedded_ahead(list(ahead))
        self._order: tuple[int, list[list[Showing]]] = (-1, [])

    def batches(self, step: int, part: int = 0) -> Iterator[Batch]:
        """The batches of one of the ``parts`` of a step, counted from 0: one, unless several are
        accumulated; none where the epoch's last step has too few pictures. They depend on the seed,
        the step and the part alone, and those of all parts are the step's, however many there are.
        """
        wanted = self._wanted(step)
        begin, end = part * self.accumulation, (part + 1) * self.accumulation
        first, of = sum(map(len, wanted[:begin])), sum(map(len, wanted))
        for order in wanted[begin:end]:
            yield self._batch(step, first, order, of)
            first += len(order)

    def examples(self) -> Iterator[Batch]:
        """One batch of each shape that the run's have: of each size a full one, and what is left
        over of an epoch. They are as long in every epoch."""
        met = set()
        for step in range(self.steps_per_epoch):
            for batch in self._wanted(step):
                if (shape := (self.sizes[batch[0].picture], len(batch))) not in met:
                    met.add(shape)
                    yield self._batch(step, 0, batch, len(batch))

    def pictures(self, step: int) -> list[int]:
        """The places in the run's list of a step's pictures, by slot."""
        return [one.picture for order in self._wanted(step) for one in order]

    def _wanted(self, step: int) -> list[list[Showing]]:
        """A step's pictures by batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        count = self.accumulation * self.parts
        return self._batches(epoch)[place * count : (place + 1) * count]

    def _batch(self, step: int, first: int, order: list[Showing], of: int) -> Batch:
        """``first``: the slot of its first picture among the step's ``of``."""
        drawn = [self._sample(step, first + slot, one) for slot, one in enumerate(order)]
        pictures = tuple(one.picture for one in order)
        captions = [
            shown(self.captions[index], self.dataset, self.seed, step, first + slot, self.wildcards)
            for slot, index in enumerate(pictures)
        ]
        latents, noise, mixed, timesteps, views, mirrored = zip(*drawn, strict=True)
        noises = self._sent(torch.stack(noise))
        return Batch(
            latents=self._sent(torch.stack(latents)),
            noise=noises,
            mixed=self._sent(torch.stack(mixed)) if self.noise.input_perturbation else noises,
            timesteps=self._sent(torch.cat(timesteps)),
            text=self._sent(self._text(captions)),
            share=len(order) / of,
            views=self._sent(torch.tensor(views)) if self.base.takes_views else None,
            pictures=pictures,
            first=first,
            counts=self._counts(order, mirrored),
        )

    def _counts(self, order: list[Showing], mirrored: Sequence[bool]) -> Tensor | None:
        if self.masks is None and self.trained == len(self.moments):
            return None
        trained = [one.picture < self.trained for one in order]
        counts = torch.tensor([1.0 if one else self.prior for one in trained])
        counts = counts.view(-1, 1, 1, 1)
        if self.masks is not None:
            own = [_in_turn(self.masks[one.picture], one.time) for one in order]
            masks = [
                mask.flip(-1) if turned else mask
                for mask, turned in zip(own, mirrored, strict=True)
            ]
            counts = counts * torch.stack(masks)[:, None]
        return self._sent(counts)

    def _sent(self, tensor: Tensor) -> Tensor:
        """The same on the base's device. Out of pinned memory: from any other a copy waits for all
        that the GPU has still to do."""
        device = self.base.device
        if device.type != "cuda" or tensor.device.type == "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)

    def _text(self, captions: list[str]) -> Tensor:
        if self.learns_text:
            return self.base.encode_texts(captions, self.reading).to(self.base.dtype)
        known = (self._texts.get(text) for text in captions)
        return torch.cat(
            [
                self._embedded(text) if found is None else found
                for text, found in zip(captions, known, strict=True)
            ]
        )

    @torch.no_grad()
    def _embedded_ahead(self, texts: list[str]) -> dict[str, Tensor]:
        """One by one on a CPU: a row computed in a batch is another row in its last bits. On a GPU,
        where no run repeats bit for bit, several at once."""
        at_once = TEXTS_AT_ONCE if self.base.device.type != "cpu" else 1
        found: dict[str, Tensor] = {}
        for first in range(0, len(texts), at_once):
            some = texts[first : first + at_once]
            rows = self.base.encode_texts(some, self.reading).to("cpu", self.base.dtype)
            found |= dict(zip(some, torch.split(rows, 1), strict=True))
        return found

    def _embedded(self, text: str) -> Tensor:
        return self.base.encode_text(text, self.reading).to("cpu", self.base.dtype)

    def _sample(
        self, step: int, slot: int, showing: Showing
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[float], bool]:
        """Latents, noise, noise to mix in, timestep, view of one picture in one step, and whether
        it is mirrored."""
        own = generator(self.seed, "sample", step, slot)
        moments = _in_turn(self.moments[showing.picture], showing.time)
        mirrored = bool(torch.rand((), generator=own) < 0.5) and self.flip
        latents = moments.draw(mirrored, torch.randn(moments.mean.shape, generator=own))
        shift = self.noise.shift or self.base.shift(*latents.shape[-2:])
        timestep = draw_timestep(self.noise, self.timesteps, own, shift)
        noise = mixed = draw_noise(self.noise, latents.shape, own)
        if self.noise.input_perturbation:
            more = torch.randn(latents.shape, generator=own)
            mixed = noise + self.noise.input_perturbation * more
        seen = view(moments.size, self.sizes[showing.picture], mirrored, moments.place)
        return latents, noise, mixed, timestep, seen, mirrored

    def _batches(self, epoch: int) -> list[list[Showing]]:
        """The pictures of an epoch's batches. With several buckets each is filled in the epoch's
        order, its last batch as full as it gets, and then the batches are shuffled."""
        if self._order[0] != epoch:
            filled: dict[Size, list[Showing]] = {}
            for one in self._shuffled(epoch):
                filled.setdefault(self.sizes[one.picture], []).append(one)
            batches = [
                bucket[first : first + self.batch_size]
                for _, bucket in sorted(filled.items())
                for first in range(0, len(bucket), self.batch_size)
            ]
            if len(filled) > 1:
                order = shuffled(len(batches), self.seed, epoch, "batches")
                batches = [batches[number] for number in order]
            self._order = (epoch, batches)
        return self._order[1]

    def _shuffled(self, epoch: int) -> list[Showing]:
        """An epoch's samples: each picture ``repeats`` times, in the epoch's order, and as many for
        regularisation. These take turns over the epochs; with several buckets each epoch has the
        same ones, for else its steps would be another number."""
        count = self.trained * self.repeats
        regular = len(self.moments) - self.trained
        again = len(set(self.sizes)) > 1
        samples = []
        for number in shuffled(2 * count if regular else count, self.seed, epoch):
            if number < count:
                time, index = divmod(epoch * count + number, self.trained)
                samples.append(Showing(index, time))
                continue
            place = number - count
            time, index = divmod(place if again else epoch * count + place, regular)
            if again:
                time += epoch * -(-(count - index) // regular)  # so often in each epoch before
            samples.append(Showing(self.trained + index, time))
        return samples


def _in_turn(versions: Sequence[T], time: int) -> T:
    return versions[time % len(versions)]


def view(
    whole: tuple[int, int] | None, size: Size, mirrored: bool, place: float = PLAIN.place
) -> list[float]:
    """What SDXL is told of a picture that was resized to cover its bucket and cropped at a
    ``place`` as ``Version`` has it (https://arxiv.org/abs/2307.01952): height and width before that
    (``whole``), the crop's top and left, and the height and width of what is left (``size`` is
    width and height). Mirrored, its left is what was its right."""
    wide, high = size
    height, width = whole or (high, wide)
    over, below = buckets.over((width, height), size)
    left, top = int(over * place), int(below * place)
    return [
        float(one) for one in (height, width, top, over - left if mirrored else left, high, wide)
    ]


def choose(
    dataset: Dataset, freeze: Freeze, cache: LatentsCache, run_dir: Path, look: Look
) -> tuple[Choice, list[list[Moments]]]:
    """Cache every version of a run's pictures, and settle for good which ones can be used.

    ``look`` may raise to leave off; what is cached stays so. Raises LoraError: INVALID_FILE if none
    can be used, or if one that the run has begun with is lost; INVALID_RECIPE if the memory does
    not hold so many versions; STORAGE.
    """
    if freeze.versions:
        _insist_on_memory(dataset, freeze, cache)
    path = run_dir / "pictures.json"
    if path.exists():
        return _chosen_before(path, dataset, freeze, cache, look)
    used: list[Used] = []
    moments: list[list[Moments]] = []
    skipped: list[tuple[str, str]] = []
    wanted = [
        [Wanted(cache.key(picture, version), picture, version) for version in versions]
        for picture, versions in zip(freeze.every, versions_of(freeze, dataset), strict=True)
    ]
    for index, found in enumerate(_found(cache, wanted, look)):
        if isinstance(found, PictureError):
            skipped.append((freeze.every[index].path, str(found)))
        else:
            moments.append(found)
            key, *more = (one.key for one in wanted[index])
            used.append(Used(index, key, more))
    choice = Choice(used, skipped)
    if not any(one.index < len(freeze.pictures) for one in used):
        raise LoraError(
            Code.INVALID_FILE,
            f"None of the {len(freeze.pictures)} pictures of {freeze.dataset!r} can be used"
            + (f"; the first, {skipped[0][0]}: {skipped[0][1]}." if skipped else "."),
            data={"skipped": skipped},
        )
    if freeze.regularisation and used[-1].index < len(freeze.pictures):
        raise LoraError(
            Code.INVALID_FILE,
            f"None of the {len(freeze.regularisation)} pictures for regularisation can be used; "
            f"the first, {skipped[-1][0]}: {skipped[-1][1]}.",
            data={"skipped": skipped},
        )
    publish(path, msgspec.json.encode(choice))
    return choice, moments


def _insist_on_memory(dataset: Dataset, freeze: Freeze, cache: LatentsCache) -> None:
    """All versions are in memory while a run trains: too many would have its process killed."""
    sizes = [cache.bytes_of(picture) for picture in freeze.every]
    needed = sum(size * count for size, count in zip(sizes, freeze.versions, strict=True))
    free = psutil.virtual_memory().available
    if needed > free:
        fewer = max(2, int(dataset.versions * free / needed))
        raise LoraError(
            Code.INVALID_RECIPE,
            f"The latents of {sum(freeze.versions)} versions of {len(sizes)} pictures take "
            f"{needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free. `lora-tui "
            f"run fork {freeze.run} --set dataset.versions={fewer}` makes fewer.",
            data={"key": "dataset.versions"},
        )


def _chosen_before(
    path: Path, dataset: Dataset, freeze: Freeze, cache: LatentsCache, look: Look
) -> tuple[Choice, list[list[Moments]]]:
    try:
        choice = msgspec.json.decode(path.read_bytes(), type=Choice)
        every, versions = freeze.every, versions_of(freeze, dataset)
        wanted = [
            [
                Wanted(key, every[one.index], version)
                for key, version in zip([one.key, *one.more], versions[one.index], strict=True)
            ]
            for one in choice.used
        ]
    except (msgspec.MsgspecError, IndexError, ValueError) as error:
        raise LoraError(Code.INVALID_FILE, f"{path} is damaged ({error}).") from None
    moments = []
    for number, found in enumerate(_found(cache, wanted, look)):
        if isinstance(found, PictureError):
            lost = wanted[number][0].picture.path
            raise LoraError(
                Code.INVALID_FILE,
                f"{lost}: {found}. This run has begun with it, and its cached latents are gone: "
                "put the picture back, or start a new run.",
                data={"path": lost},
            )
        moments.append(found)
    return choice, moments


def _found(
    cache: LatentsCache, wanted: Sequence[Sequence[Wanted]], look: Look
) -> Iterator[list[Moments] | PictureError]:
    """For each picture the entries of its versions, or why it cannot be used. Raises
    LoraError(STORAGE)."""
    flat = [one for versions in wanted for one in versions]
    done = 0
    with closing(entries(cache, flat)) as coming:
        for versions in wanted:
            moments: list[Moments] = []
            failed: PictureError | None = None
            for entry in islice(coming, len(versions)):
                look(done, len(flat))
                done += 1
                try:
                    if failed is None:
                        moments.append(entry())
                except PictureError as error:
                    failed = error
            yield failed or moments
    look(done, len(flat))


def cached(cache: LatentsCache, key: str, picture: FrozenPicture) -> Moments:
    """A picture's entry, made if there is none. Raises PictureError, LoraError(STORAGE)."""
    return cache.find(key, cache.size(picture)) or cache.make(key, picture)
