"""What is wrong with a dataset's captions taken together: tags used once or everywhere, slips of
the keyboard, the trigger word, names that share a caption file. Anew after every change."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_daemon.store import Store, read_only
from shared.edits import has_word

KEPT = 4  # datasets
CHUNK = 500  # captions whose tags are counted at once
SAMPLE = 2000  # captions that are read for what they say of framing
EVERYWHERE = 0.9  # of the tag lists, and of at least so many:
LISTS = 10
FREQUENT = 3  # times a tag is used that another may be a slip of,
TIMES = 4  # and so many times as often as that
SHORTEST = 4  # letters of a word that may be a slip; "hat" and "cat" are none
_SENTENCE = (".", "!", "?", "。", "！", "？", '."', ".”")
_FRAMING = {
    "close-up": ("close-up", "close up", "closeup", "portrait", "headshot", "face"),
    "upper body": ("upper body", "cowboy shot", "half body", "bust", "medium shot"),
    "full body": ("full body", "full-body", "full length", "standing"),
    "wide": ("wide shot", "wide angle", "landscape", "scenery", "from afar", "establishing shot"),
}


@dataclass
class CaptionFacts:
    """Of one dataset. ``marks``: rows of ``items`` by kind of issue, as ``marked`` has them;
    rejected pictures are among them, but count for no number."""

    marks: dict[str, bytes] = field(default_factory=dict)
    captions: int = 0  # that are not empty
    lists: int = 0  # of these, lists of tags and not sentences
    everywhere: list[tuple[str, int]] = field(default_factory=list)  # tags and how often
    once: list[str] = field(default_factory=list)
    twins: list[tuple[str, str, int]] = field(default_factory=list)  # slip, tag, how often that
    stems: list[str] = field(default_factory=list)  # names that several pictures share
    framing: Counter[str] = field(default_factory=Counter)  # captions that say it


class CaptionLore:
    """Keeps the facts of the last few datasets, each until something in it changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, tuple[tuple[int, str], CaptionFacts]] = OrderedDict()
        self._turn = asyncio.Lock()

    async def of(self, dataset: str) -> CaptionFacts:
        """The facts as they are now. ``dataset`` is an id."""
        async with self._turn:
            now = (self._store.touched(dataset), self.trigger(dataset))
            known = self._known.get(dataset)
            if known is None or known[0] != now:
                known = now, await asyncio.to_thread(_read, self._store.database, dataset, now[1])
                self._known[dataset] = known
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(dataset)
            return known[1]

    def trigger(self, dataset: str) -> str:
        """The word that every caption is to have; empty if nobody said one."""
        rows = self._store.query("SELECT trigger_word FROM checks WHERE dataset = ?", (dataset,))
        return str(rows[0][0]) if rows else ""


def _read(database: Path, dataset: str, trigger: str) -> CaptionFacts:
    with contextlib.closing(sqlite3.connect(read_only(database), uri=True)) as connection:
        rows = connection.execute(
            "SELECT rowid, name, text, tags, state = 'rejected' FROM items NOT INDEXED"
            " WHERE dataset = ?", (dataset,),
        )  # fmt: skip
        return facts_of(rows, trigger)


Row = tuple[int, str, str, str, int]  # of items, name, text, tags as the table has them, rejected


def facts_of(rows: Iterable[Row], trigger: str) -> CaptionFacts:
    """The facts of captions."""
    facts, triggered = CaptionFacts(), has_word(trigger) if trigger else None
    missing, lists, counted = list[int](), list[tuple[int, str]](), list[str]()
    counts, first, shared = Counter[str](), dict[str, tuple[int, str]](), dict[str, list[int]]()
    for row, name, text, tags, rejected in rows:
        stem = name.rpartition(".")[0].casefold()
        before = first.setdefault(stem, (row, name))
        if before[0] != row:
            shared.setdefault(stem, [before[0]]).append(row)
        told = tags[1:-1].lower()
        if not told or text.isspace():
            continue
        if triggered is not None and not triggered(text):
            missing.append(row)
        if not rejected:
            facts.captions += 1
            if facts.captions <= SAMPLE:
                facts.framing.update(_framing(told))
        if _is_list(told, text):
            lists.append((row, told))
            if not rejected:
                counted.append(told)
                if len(counted) % CHUNK == 0:
                    counts.update(",".join(counted[-CHUNK:]).split(","))
    facts.lists = len(counted)
    counts.update(",".join(counted[len(counted) // CHUNK * CHUNK :]).split(","))
    counts.pop("", None)
    own = " ".join(trigger.split()).lower()
    if facts.lists >= LISTS:
        least = facts.lists * EVERYWHERE
        facts.everywhere = [(t, n) for t, n in counts.most_common(20) if n >= least and t != own]
    facts.twins = twins(counts)
    slips = {slip for slip, _, _ in facts.twins}
    facts.once = sorted(t for t, n in counts.items() if n == 1 and t not in slips and t != own)
    facts.stems = sorted(first[stem][1] for stem in shared)
    of_kind = {
        "no-trigger": missing,
        "stem": [row for several in shared.values() for row in several],
        "tag-everywhere": _having(lists, [tag for tag, _ in facts.everywhere]),
        "tag-once": _having(lists, facts.once),
        "tag-twin": _having(lists, slips),
    }
    facts.marks = {name: marked(found) for name, found in of_kind.items()}
    return facts


def marked(rows: Collection[int]) -> bytes:
    """Rows as SQLite looks one up soonest: a byte for each row number, 1 for those of ``rows``."""
    marks = bytearray(max(rows, default=-1) + 1)
    for row in rows:
        marks[row] = 1
    return bytes(marks)


def _having(lists: Sequence[tuple[int, str]], wanted: Collection[str]) -> list[int]:
    if not wanted:
        return []
    apart = set(wanted).isdisjoint
    return [row for row, tags in lists if not apart(tags.split(","))]


def _is_list(tags: str, text: str) -> bool:
    """Whether a caption is a list of tags: three or more, of three words at most on average, and
    without the end of a sentence."""
    several = tags.count(",") + 1
    words = tags.count(" ") + several
    return several >= 3 and words <= 3 * several and not text.rstrip().endswith(_SENTENCE)


def _framing(text: str) -> list[str]:
    return [name for name, words in _FRAMING.items() if any(word in text for word in words)]


# ── slips of the keyboard ───────────────────────────────────────────────────────────────────────


def twins(counts: Counter[str]) -> list[tuple[str, str, int]]:
    """Rare tags that are frequent ones but for a letter, or for _, - and spaces, as (slip, tag, how
    often the tag is used); the most frequent first.

    Two words are compared only where both have lost one letter and are alike (SymSpell's way), so
    the work grows with the tags and not with their pairs.
    """
    by_key = defaultdict[str, list[str]](list)
    for tag, count in counts.items():
        if count >= FREQUENT:
            for key in _lacking_one(tag):
                by_key[key].append(tag)
    found = []
    for slip, count in counts.items():
        near = {tag for key in _lacking_one(slip) for tag in by_key.get(key, ())}
        meant = [
            tag for tag in near if counts[tag] >= TIMES * count and _is_slip(slip, tag)
        ]  # fmt: skip
        if meant:
            tag = max(meant, key=lambda tag: (counts[tag], tag))
            found.append((slip, tag, counts[tag]))
    return sorted(found, key=lambda twin: (-twin[2], twin[0]))


def _joined(tag: str) -> str:
    return tag.replace("_", "").replace("-", "").replace(" ", "")


def _lacking_one(tag: str) -> set[str]:
    plain = _joined(tag)
    if len(plain) < SHORTEST:
        return set()
    return {plain, *(plain[:at] + plain[at + 1 :] for at in range(len(plain)))}


def _is_slip(slip: str, tag: str) -> bool:
    if slip == tag:
        return False
    if _joined(slip) == _joined(tag):
        return True
    one, other = (text.replace("_", " ").replace("-", " ").split() for text in (slip, tag))
    if len(one) != len(other):
        return False
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    return len(differing) == 1 and _one_letter(*differing[0])


def _one_letter(slip: str, word: str) -> bool:
    """Whether a letter was left out, put in, exchanged, or swapped with the next; but not the first
    (light, night), a number (1girl, 2girls) or an s at the end (eye, eyes)."""
    if min(len(slip), len(word)) < SHORTEST or slip[0] != word[0]:
        return False
    if [c for c in slip if c.isdigit()] != [c for c in word if c.isdigit()]:
        return False
    if slip + "s" == word or word + "s" == slip:
        return False
    short, long = sorted((slip, word), key=len)
    at = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return len(long) - len(short) == 1 and short[at:] == long[at + 1 :]
    swapped = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return swapped or short[at + 1 :] == long[at + 1 :]
