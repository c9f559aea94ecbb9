"""Errors in words, with an exit status each, the same on both sides of the wire."""

from __future__ import annotations

import errno

import msgspec
import pytest

from shared.errors import Code, Exit, LoraError, in_words, not_found
from shared.pictures import PictureSpec


@pytest.mark.parametrize("code", Code)
def test_every_error_ends_a_command_with_a_failure(code: Code) -> None:
    assert LoraError(code, "x").exit is not Exit.OK


def test_an_error_is_the_same_on_the_other_side() -> None:
    error = LoraError(Code.CONFLICT, "Changed.", data={"rev": 2}, retryable=True)
    back = LoraError.of(error.failure())
    assert (back.code, back.message, back.data, back.retryable) == (
        Code.CONFLICT,
        "Changed.",
        {"rev": 2},
        True,
    )
    assert str(back) == "Changed."


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_error_says_what_to_do(number: int, advice: str) -> None:
    import os

    error = LoraError.storage("write", "/a/file", OSError(number, os.strerror(number)))
    assert error.code is Code.STORAGE and error.exit is Exit.STORAGE
    assert error.message.startswith("Could not write /a/file. ")
    assert advice in error.message
    assert error.data == {"path": "/a/file", "errno": number}


def test_what_is_not_there_is_said_with_what_is() -> None:
    for names, hint in (
        (["dragons", "ink"], "Did you mean dragons?"),
        (["ink", "tea"], "There is ink, tea."),
        ([f"{n:02}" for n in range(9)], "There is 00, 01, 02, 03, 04, 05, 06, 07 and more."),
        ([], "There is no dataset yet."),
    ):
        error = not_found("dataset", "dragon", names)
        assert error.message == f"There is no dataset 'dragon'. {hint}"
    assert "`lora-tui model add` adds one" in not_found("base", "x", []).message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"cfg": 101.0}, "cfg must be at most 100"),
        ({"steps": "x"}, "steps must be a whole number, not text"),
        ({"prompt": "x" * 100_000}, "prompt must be of length at most"),
        ({"sampler": "Oiler"}, "sampler: Invalid enum value 'Oiler'"),
        ({"loras": [{"lora": "a", "weight": 11.0}]}, "loras[0].weight must be at most 10"),
    ],
)
def test_a_value_out_of_its_bounds_is_said_without_signs(value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, PictureSpec)
    assert in_words(caught.value).startswith(words)
