"""Every error a user can meet: a closed list of codes, and one exception that carries them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import Any

import msgspec


class Code(StrEnum):
    """What went wrong. The list is closed: clients may switch on it."""

    BAD_REQUEST = "bad_request"  # the message itself makes no sense
    INCOMPATIBLE = "incompatible"  # no protocol version in common
    UNREACHABLE = "unreachable"  # no daemon answers
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    CONFLICT = "conflict"  # somebody else changed it first; data.current has the present value
    INVALID_RECIPE = "invalid_recipe"
    INVALID_FILE = "invalid_file"  # a picture, caption, model or LoRA that cannot be used
    WRONG_STATE = "wrong_state"  # e.g. pausing a run that has finished
    TOO_LARGE = "too_large"
    STORAGE = "storage"  # disk full, read-only, not permitted
    BUSY = "busy"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_FAILED = "worker_failed"
    DIVERGED = "diverged"  # the loss became NaN or infinite
    INTERNAL = "internal"


# Of a kind of thing that is not there by the name asked for: where the names are, with a space.
_MORE = {"base": " `lora-tui model list` lists the bases; `lora-tui model add` adds one."}


class Exit(IntEnum):
    """Exit statuses of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    INVALID = 6
    STORAGE = 7
    RUN_FAILED = 8
    INTERRUPTED = 130


_EXITS = {
    Code.NOT_FOUND: Exit.NOT_FOUND,
    Code.CONFLICT: Exit.CONFLICT,
    Code.ALREADY_EXISTS: Exit.CONFLICT,
    Code.UNREACHABLE: Exit.UNREACHABLE,
    Code.INCOMPATIBLE: Exit.UNREACHABLE,
    Code.INVALID_RECIPE: Exit.INVALID,
    Code.INVALID_FILE: Exit.INVALID,
    Code.STORAGE: Exit.STORAGE,
    Code.OUT_OF_MEMORY: Exit.RUN_FAILED,
    Code.WORKER_FAILED: Exit.RUN_FAILED,
    Code.DIVERGED: Exit.RUN_FAILED,
    Code.CANCELLED: Exit.INTERRUPTED,
}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it travels: ``message`` is one or two sentences for the user."""

    code: Code
    message: str
    data: dict[str, Any] = {}
    retryable: bool = False


class LoraError(Exception):
    """An error meant for the user: what happened, which file, what to do."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        data: dict[str, Any] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data or {}
        self.retryable = retryable

    @property
    def exit(self) -> Exit:
        return _EXITS.get(self.code, Exit.FAILED)

    def failure(self) -> Failure:
        return Failure(
            code=self.code, message=self.message, data=self.data, retryable=self.retryable
        )

    @classmethod
    def of(cls, failure: Failure) -> LoraError:
        return cls(failure.code, failure.message, data=failure.data, retryable=failure.retryable)

    @classmethod
    def storage(cls, doing: str, path: object, error: OSError) -> LoraError:
        """A disk error said in words. ``doing`` reads on from "Could not"."""
        import errno

        advice = {
            errno.ENOSPC: "The disk is full: free some space and try again.",
            errno.EDQUOT: "Your disk quota is used up: free some space and try again.",
            errno.EROFS: "That file system is mounted read-only.",
            errno.EACCES: "Permission is denied: check who owns it.",
            errno.EPERM: "The system does not permit it.",
        }.get(error.errno or 0, f"{error.strerror or error}.")
        return cls(
            Code.STORAGE,
            f"Could not {doing} {path}. {advice}",
            data={"path": str(path), "errno": error.errno},
            retryable=True,
        )


def not_found(kind: str, name: str, names: Iterable[str]) -> LoraError:
    """NOT_FOUND in words, with the names that are near or all there are."""
    import difflib

    known = list(dict.fromkeys(names))
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        hint = f" Did you mean {' or '.join(close)}?"
    elif known:
        hint = f" There is {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}."
    else:
        hint = f" There is no {kind} yet."
    return LoraError(Code.NOT_FOUND, f"There is no {kind} {name!r}.{hint}{_MORE.get(kind, '')}")


class UsageError(LoraError):
    """What was asked makes no sense as it was written."""

    def __init__(self, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(Code.BAD_REQUEST, message, data=data)

    @property
    def exit(self) -> Exit:
        return Exit.USAGE


_MEANT = {
    "Expected ": "must be ", "`bool`": "true or false", "`int`": "a whole number",
    "`float`": "a number", "`str`": "text", ">= ": "at least ", "<= ": "at most ",
    "< ": "less than ", "> ": "more than ", ", got": ", not",
}  # fmt: skip


def in_words(error: msgspec.ValidationError) -> str:
    """What a value must be, for a person: ``steps must be at least 1``."""
    what, _, where = str(error).partition(" - at `$.")
    where = where.rstrip("`")
    if not what.startswith("Expected "):
        return f"{where}: {what}"
    for word, meant in _MEANT.items():
        what = what.replace(word, meant)
    what = re.sub(
        r"(?<=must be )(a number|a whole number|text) (?=at |less|more|of length)", "", what
    )
    return f"{where} {what.replace('`', '').removesuffix('.0')}"
