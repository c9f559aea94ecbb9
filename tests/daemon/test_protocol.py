"""What goes over the wire: who is let in, what is answered, what happens to nonsense."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError
from tests.daemon.served import WITHIN, Served


async def refusal(served: Served, frames: list[bytes]) -> wire.Refused:
    """What a stranger who sends ``frames`` is told."""
    raw = served.raw()
    await raw.socket.send_multipart(frames)
    message = await raw.hear()
    assert isinstance(message, wire.Refused)
    return message


@pytest.mark.parametrize(
    ("protocol", "advice"),
    [
        ((7, 9), "on the daemon's machine"),
        ((0, 0), "on your machine"),
    ],
)
async def test_another_protocol_version_is_told_what_to_install(
    protocol: tuple[int, int], advice: str, served: Served
) -> None:
    hello = wire.Hello(protocol=protocol, client="other", version="9.8.7")
    refused = await refusal(served, wire.pack(hello))
    assert refused.failure.code is Code.INCOMPATIBLE
    assert not refused.say_hello
    assert refused.protocol == wire.PROTOCOL
    assert "9.8.7" in refused.failure.message and advice in refused.failure.message


async def test_the_client_raises_that_refusal(served: Served) -> None:
    old = wire.Hello(protocol=(0, 0), client="old", version="0.0.1")
    client = Client(served.endpoint, None, old, start=False)
    with pytest.raises(LoraError, match="pip install") as caught:
        await client._establish(first=True)
    await client.close()
    assert caught.value.code is Code.INCOMPATIBLE


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"GET / HTTP/1.1", b""], Code.BAD_REQUEST),
        ([b"hello"], Code.BAD_REQUEST),
        ([b"", b"", b""], Code.BAD_REQUEST),
        ([b"LORA\x02", b"\x80"], Code.INCOMPATIBLE),
        ([wire.MAGIC, b"\xc1\xff\x00"], Code.BAD_REQUEST),
        ([wire.MAGIC, wire.encoder.encode({"type": "open sesame"})], Code.BAD_REQUEST),
        ([wire.MAGIC, wire.encoder.encode({"type": "call", "id": 1})], Code.BAD_REQUEST),
        ([wire.MAGIC, wire.encoder.encode(wire.Ping())] + [b"x"] * 17, Code.TOO_LARGE),
    ],
)
async def test_nonsense_is_refused_aloud(frames: list[bytes], code: Code, served: Served) -> None:
    refused = await refusal(served, frames)
    assert refused.failure.code is code
    client = await served.client()
    assert await client.call(wire.GetState()) == wire.State()


async def test_a_stranger_is_asked_to_say_hello(served: Served) -> None:
    refused = await refusal(served, wire.pack(wire.Call(id=1, request=wire.GetState())))
    assert refused.say_hello


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"op": "lora.inspect", "lora": "small", "clour": "red"}, Code.BAD_REQUEST, "clour"),
        ({"op": "picture.dream", "of": "sheep"}, Code.INCOMPATIBLE, "lora-tui daemon stop"),
    ],
)
async def test_a_call_that_cannot_be_read_fails_and_its_client_stays(
    request_: dict[str, str], code: Code, said: str, served: Served
) -> None:
    """A newer client asks for what this daemon does not know: it is told so, once."""
    raw = served.raw()
    await raw.hello(subscribe=False)
    call = wire.encoder.encode({"type": "call", "id": 7, "request": request_})
    await raw.socket.send_multipart([wire.MAGIC, call])
    failed = await raw.hear()
    assert isinstance(failed, wire.Failed) and failed.id == 7
    assert failed.failure.code is code and said in failed.failure.message
    await raw.socket.send_multipart(wire.pack(wire.Call(id=8, request=wire.GetState())))
    assert isinstance(await raw.hear(), wire.Answer)


async def test_an_oversize_frame_costs_its_sender_the_connection_and_nobody_else(
    served: Served,
) -> None:
    client = await served.client()
    raw = served.raw()
    await raw.hello(subscribe=False)
    monitor = raw.socket.get_monitor_socket()
    await raw.socket.send_multipart([wire.MAGIC, b"x" * (wire.MAX_BLOB + 1)])
    async with asyncio.timeout(WITHIN):
        await monitor.recv_multipart()
    assert await client.call(wire.GetState()) == wire.State()


async def test_the_client_does_not_even_send_what_is_too_large(served: Served) -> None:
    client = await served.client()
    with pytest.raises(LoraError) as caught:
        await client.call(wire.InspectLora(lora="x" * (wire.MAX_HEADER + 1)))
    assert caught.value.code is Code.TOO_LARGE
    assert await client.call(wire.GetState()) == wire.State()


async def test_an_answer_that_is_too_large_becomes_an_error(served: Served) -> None:
    client = await served.client()
    with pytest.raises(LoraError) as caught:
        await client.call(wire.InspectLora(lora=f"big:{wire.MAX_HEADER + 1}"))
    assert caught.value.code is Code.TOO_LARGE


async def test_a_handlers_error_reaches_the_caller(served: Served) -> None:
    client = await served.client()
    with pytest.raises(LoraError, match="no LoRA nowhere") as caught:
        await client.call(wire.InspectLora(lora="nowhere"))
    assert caught.value.code is Code.NOT_FOUND


async def test_a_bug_becomes_a_reference_and_the_daemon_lives(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    client = await served.client()
    with pytest.raises(LoraError) as caught:
        await client.call(wire.InspectLora(lora="crash"))
    assert caught.value.code is Code.INTERNAL
    assert "secret" not in caught.value.message
    assert caught.value.data["reference"] in caplog.text
    assert "ZeroDivisionError: a secret" in caplog.text
    assert (await client.call(wire.InspectLora(lora="small"))).size == 0


async def test_a_request_nobody_handles_is_a_bug_too(served: Served) -> None:
    client = await served.client()
    with pytest.raises(LoraError) as caught:
        await client.call(wire.GetStatus())
    assert caught.value.code is Code.INTERNAL


async def test_cancelling_a_call_cancels_the_request(served: Served) -> None:
    client = await served.client()
    for request in (wire.InspectLora(lora="wait"), wire.AddBase(path="wait", name="b")):
        served.entered.clear()
        served.cancelled.clear()
        call: asyncio.Task[Any] = asyncio.create_task(client.call(request))
        async with asyncio.timeout(WITHIN):
            await served.entered.wait()
            call.cancel()
            await served.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert served.effects == 0


async def test_a_call_may_have_a_deadline(served: Served) -> None:
    client = await served.client()
    with pytest.raises(LoraError, match=r"within 0\.05 s"):
        await client.call(wire.InspectLora(lora="wait"), timeout=0.05)
    async with asyncio.timeout(WITHIN):
        await served.cancelled.wait()


async def test_progress_reaches_the_caller_and_is_not_a_flood(served: Served) -> None:
    client = await served.client()
    told: list[tuple[int, int, str]] = []
    request = wire.InspectLora(lora="steps")
    await client.call(request, on_progress=lambda *news: told.append(news))
    assert told[-1] == (1000, 1000, "counting")
    assert len(told) < 10


async def test_what_one_reads_ends_with_the_client_what_one_changes_goes_on(
    served: Served,
) -> None:
    raw = served.raw()
    await raw.hello(subscribe=False)
    await raw.say(wire.Call(id=1, request=wire.InspectLora(lora="wait")))
    async with asyncio.timeout(WITHIN):
        await served.entered.wait()
        await raw.say(wire.Bye())
        await served.cancelled.wait()

    served.entered.clear()
    served.cancelled.clear()
    other = served.raw()
    await other.hello()
    await other.say(wire.Call(id=1, request=wire.AddBase(path="wait", name="kept"), key="k"))
    watcher = await served.client(subscribe=True)
    notices = watcher.notices()
    async with asyncio.timeout(WITHIN):
        await served.entered.wait()
        await other.say(wire.Bye())
        while len(served.server.clients()) > 1:
            await anext(notices)
        served.gate.set()
        while not isinstance(await anext(notices), wire.Journalled):
            pass
    assert served.effects == 1 and not served.cancelled.is_set()


@pytest.mark.parametrize("path", ["remembered by the handler", "forget"])
async def test_the_same_key_has_one_effect_and_one_answer(path: str, served: Served) -> None:
    client = await served.client()
    first = await client.call(wire.AddBase(path=path, name="one"), key="same")
    again = await client.call(wire.AddBase(path=path, name="two"), key="same")
    other = await (await served.client()).call(wire.AddBase(path=path), key="same")
    assert first == again == other
    assert served.effects == 1
    await client.call(wire.AddBase(path=path, name="three"), key="another")
    assert served.effects == 2


async def test_a_retry_joins_the_effect_in_flight(served: Served) -> None:
    clients = [await served.client(), await served.client()]
    request = wire.AddBase(path="wait", name="one")
    calls = [asyncio.create_task(client.call(request, key="same")) for client in clients]
    await clients[1].call(wire.GetState())  # both calls were taken in before this one
    async with asyncio.timeout(WITHIN):
        await served.entered.wait()
        served.gate.set()
        first, second = await asyncio.gather(*calls)
    assert first == second
    assert served.effects == 1


async def test_a_daemon_about_to_leave_takes_no_changes(served: Served) -> None:
    client = await served.client()
    served.server.closing = True
    with pytest.raises(LoraError, match="leaving") as caught:
        await client.call(wire.AddBase(path="x"))
    assert caught.value.code is Code.BUSY and caught.value.retryable
    assert await client.call(wire.GetState()) == wire.State()


async def test_random_nonsense_never_silences_the_daemon(served: Served) -> None:
    dice = random.Random(1025)
    client = await served.client(subscribe=True)
    raw = served.raw()
    good = [
        wire.pack(wire.Hello(protocol=wire.PROTOCOL, client="raw", subscribe=False)),
        wire.pack(wire.Call(id=1, request=wire.InspectLora(lora="small"), key="k")),
        wire.pack(wire.CancelCall(id=1)),
        wire.pack(wire.Bye()),
    ]
    for _ in range(500):
        frames = [bytearray(frame) for frame in dice.choice(good)]
        for _ in range(dice.randint(0, 4)):
            frame = dice.choice(frames)
            match dice.randint(0, 3):
                case 0 if frame:
                    frame[dice.randrange(len(frame))] = dice.randrange(256)
                case 1:
                    del frame[dice.randint(0, len(frame)) :]
                case 2:
                    frame += dice.randbytes(dice.randint(1, 100))
                case 3:
                    frames.insert(dice.randint(0, len(frames)), bytearray(dice.randbytes(3)))
        await raw.socket.send_multipart([bytes(frame) for frame in frames])
    refused = answered = 0
    await raw.socket.send_multipart(good[0])
    while not (isinstance(message := await raw.hear(), wire.Welcome) and refused > 50):
        refused += isinstance(message, wire.Refused)
        answered += isinstance(message, wire.Answer | wire.Welcome)
    assert answered
    assert await client.call(wire.GetState()) == wire.State()
