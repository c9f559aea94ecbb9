"""How many tokens a caption has, counted by the tokenizer of a base and kept beside it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from lora_daemon import starter
from lora_daemon.base_file import open_file
from lora_daemon.library import Library
from lora_daemon.store import Store
from lora_daemon.vocabulary import clip
from shared.errors import Code, LoraError
from shared.filenames import from_text

log = logging.getLogger(__name__)

BATCH = 500  # captions in a transaction, which holds up others
Count = Callable[[list[str]], list[int]]

# How CLIP cuts a text into words, each of which is then encoded by itself (openai/CLIP,
# simple_tokenizer.py).
_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokens:
    """Counts what is not counted yet, with the tokenizer of the first base that is not the
    starter; bases of one family have the same. Another tokenizer counts everything anew."""

    def __init__(self, store: Store, library: Library) -> None:
        self._store = store
        self._library = library
        self._lock = asyncio.Lock()
        self._count: tuple[str, Count] | None = None  # the tokenizer's digest and its counting
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Count ahead of anybody's asking: what an import has left, now and after each ``wake``."""
        self._wanted.set()
        self._task = asyncio.create_task(self._run(), name="tokens")

    def wake(self) -> None:
        self._wanted.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def complete(self, dataset: str) -> None:
        """Return when every caption of ``dataset`` is counted.

        Raises LoraError: WRONG_STATE without a base or the engine's libraries, INVALID_FILE.
        """
        async with self._lock:
            tokenizer = await self._tokenizer()
            while rows := self._store.query(
                "SELECT rowid AS place, text FROM items WHERE dataset = ? AND tokens IS NULL"
                " LIMIT ?", (dataset, BATCH),
            ):  # fmt: skip
                count = await self._counting(*tokenizer)
                counts = await asyncio.to_thread(count, [row["text"] for row in rows])
                await self._store.quiet()
                with self._store.change("daemon") as change:
                    change.executemany(
                        "UPDATE items SET tokens = ? WHERE rowid = ? AND text = ?",
                        [
                            (n, row["place"], row["text"])
                            for n, row in zip(counts, rows, strict=True)
                        ],
                    )

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for row in self._store.query("SELECT id FROM datasets"):
                try:
                    await self.complete(row["id"])
                except LoraError as error:  # whoever asks for tokens is told
                    log.info("tokens are not counted: %s", error.message)

    async def _tokenizer(self) -> tuple[str, bytes, bytes]:
        """The tokenizer's digest and files; where it is another, every count is forgotten."""
        folder = self._base()
        try:
            vocabulary, merges = await asyncio.to_thread(_read, folder)
        except OSError as error:
            raise _unreadable(folder, error) from None
        digest = hashlib.sha256(vocabulary + merges).hexdigest()
        known = self._store.query("SELECT value FROM meta WHERE key = 'tokenizer'")
        if not known or known[0]["value"] != digest:
            with self._store.change("daemon") as change:
                change.execute("UPDATE items SET tokens = NULL WHERE tokens IS NOT NULL")
                change.execute("INSERT OR REPLACE INTO meta VALUES ('tokenizer', ?)", (digest,))
        return digest, vocabulary, merges

    async def _counting(self, digest: str, vocabulary: bytes, merges: bytes) -> Count:
        if self._count is None or self._count[0] != digest:
            try:
                self._count = digest, await asyncio.to_thread(counter, vocabulary, merges)
            except LoraError:
                raise
            except Exception as error:  # of the files' contents the library says no more than that
                raise _unreadable(self._base(), error) from None
        return self._count[1]

    def _base(self) -> Path:
        bases = [base for base in self._library.bases() if not base.problem]
        bases.sort(key=lambda base: base.name in starter.BASES)
        if not bases:
            raise LoraError(
                Code.WRONG_STATE,
                "Tokens are counted by a base's tokenizer, and there is no base yet. Add one: "
                "lora-tui model add PATH.",
            )
        return Path(from_text(bases[0].path))


def _unreadable(base: Path, error: Exception) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"The tokenizer in {base} cannot be read: {error}.")


def _read(base: Path) -> tuple[bytes, bytes]:
    """What a base has as ``vocab.json`` and ``merges.txt``; one file has CLIP's own, mostly."""
    if base.is_file():
        return (open_file(base).vocabulary or clip()).files()
    folder = base / "tokenizer"
    return (folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes()


def counter(vocabulary: bytes, merges: bytes) -> Count:
    """Counts the tokens of texts as CLIP's tokenizer makes them, without start and end.

    ``vocabulary`` and ``merges`` are the files ``vocab.json`` and ``merges.txt``. Raises
    LoraError(WRONG_STATE) where the engine's libraries are not installed.
    """
    try:
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import BPE
        from tokenizers.normalizers import NFC, Lowercase, Replace
        from tokenizers.normalizers import Sequence as Steps
        from tokenizers.pre_tokenizers import ByteLevel, Split
        from tokenizers.pre_tokenizers import Sequence as Cuts
    except ImportError:
        raise LoraError(
            Code.WRONG_STATE,
            'Counting tokens needs the engine: pip install "lora-tui[engine]".',
        ) from None
    lines = merges.decode("utf-8").splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(
        BPE(
            json.loads(vocabulary),
            [(one, two) for one, two in pairs],
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
        )
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.normalizer = Steps([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    tokenizer.pre_tokenizer = Cuts(
        [
            Split(Regex(_WORD), behavior="removed", invert=True),
            ByteLevel(add_prefix_space=False),
        ]
    )

    def count(texts: list[str]) -> list[int]:
        # One by one: encode_batch takes every core, and a training may be running on them.
        return [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    return count
