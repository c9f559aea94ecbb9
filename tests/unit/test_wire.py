"""Every message survives the wire, and the page that describes it is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from shared import wire, wire_page
from shared.errors import Code, Failure, LoraError

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"


@pytest.mark.parametrize("request_type", get_args(wire.AnyRequest))
def test_every_request_names_its_answer(request_type: type[wire.Request[Any]]) -> None:
    answer = wire.answer_type(request_type)
    assert issubclass(answer, wire.Record)
    assert isinstance(request_type.changes, bool)


def test_tags_are_unique() -> None:
    for union in (wire.AnyRequest, wire.AnyEvent, wire.AnyLive):
        tags = [member.__struct_config__.tag for member in get_args(union)]
        assert len(tags) == len(set(tags))


def test_every_declared_kind_travels() -> None:
    def leaves(kind: type) -> set[type]:
        return set().union(*map(leaves, kind.__subclasses__())) if kind.__subclasses__() else {kind}

    for kind, union in (
        (wire.Request, wire.AnyRequest),
        (wire.Event, wire.AnyEvent),
        (wire.Live, wire.AnyLive),
    ):
        assert leaves(kind) == set(get_args(union))


def test_a_message_survives() -> None:
    call = wire.Call(id=7, key="k", request=wire.GetThumbnail(dataset="d", item="ü\n'\"😀"))
    message, blobs = wire.unpack_client(wire.pack(call, [b"\x00\xff", b""]))
    assert (message, blobs) == (call, [b"\x00\xff", b""])


def test_an_answer_carries_its_result_as_it_was_encoded() -> None:
    result = wire.Done()
    answer = wire.Answer(id=1, result=msgspec.Raw(wire.encoder.encode(result)))
    message, _ = wire.unpack_daemon(wire.pack(answer))
    assert isinstance(message, wire.Answer)
    assert msgspec.msgpack.decode(message.result, type=wire.Done) == result


def test_a_failure_survives() -> None:
    error = LoraError(Code.CONFLICT, "Changed.", data={"current": {"rev": 3}}, retryable=True)
    message, _ = wire.unpack_daemon(wire.pack(wire.Failed(id=1, failure=error.failure())))
    assert isinstance(message, wire.Failed)
    assert message.failure == Failure(
        code=Code.CONFLICT, message="Changed.", data={"current": {"rev": 3}}, retryable=True
    )


@pytest.mark.parametrize(
    "blobs", [[b""] * (wire.MAX_BLOBS + 1), [b"x" * (wire.MAX_BLOB + 1)]], ids=["many", "large"]
)
def test_what_is_too_large_is_not_packed(blobs: list[bytes]) -> None:
    with pytest.raises(LoraError) as caught:
        wire.pack(wire.Ping(), blobs)
    assert caught.value.code is Code.TOO_LARGE


def test_a_message_of_the_other_direction_makes_no_sense() -> None:
    with pytest.raises(LoraError) as caught:
        wire.unpack_daemon(wire.pack(wire.Ping()))
    assert caught.value.code is Code.BAD_REQUEST


def test_a_field_of_a_later_version_is_passed_over() -> None:
    hello = msgspec.to_builtins(wire.Hello(protocol=(1, 2), client="c")) | {"later": 1}
    message, _ = wire.unpack_client([wire.MAGIC, wire.encoder.encode(hello)])
    assert message == wire.Hello(protocol=(1, 2), client="c")


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == wire_page.page(), "run: python -m shared.wire_page"


def test_the_page_names_everything_that_travels() -> None:
    page = wire_page.page()
    for union in (wire.AnyRequest, wire.AnyEvent, wire.AnyLive):
        for member in get_args(union):
            assert f"`{member.__struct_config__.tag}`" in page
    for code in Code:
        assert f"`{code}`" in page
