"""What a captioner is asked, and where one with a name comes from."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lora_daemon import captioning, prompts
from lora_daemon.hub import chosen
from shared import wire
from shared.captioners import CAPTIONERS
from shared.errors import Code, LoraError
from shared.wire import FromHub
from tests.daemon.fake_hub import Hub
from tests.daemon.house import House
from tests.daemon.test_captioning import captions, house, put, uncaptioned

__all__ = ["house"]


def test_a_prompts_fields_are_the_pictures_own() -> None:
    asked = "Show {trigger}: {tags} / {caption} {}"
    with pytest.raises(LoraError, match=r"no field \{\}: there are \{trigger\}, \{tags\}"):
        prompts.check(asked, "drgn")
    with pytest.raises(LoraError, match="no trigger word yet"):
        prompts.check("{trigger}", "")
    asked = asked.removesuffix(" {}")
    prompts.check(asked, "drgn")
    filled = prompts.filled(asked, trigger="drgn", caption="red, wings {caption}")
    assert filled == "Show drgn: red, wings {caption} / red, wings {caption}"
    filled = prompts.filled(asked, trigger="", caption="A red dragon sits on a rock.")
    assert filled == "Show :  / A red dragon sits on a rock."


async def test_each_picture_is_asked_by_its_own_words_and_again_when_asked_otherwise(
    house: House, tmp_path: Path
) -> None:
    uncaptioned(tmp_path / "set", 3)
    await house.call(wire.ImportDataset(path=str(tmp_path / "set")))
    await put(house, "001.png", text="red, wings")
    for question in ("What of {tags}?", "Again: {caption}"):
        ask = wire.CaptionPictures(dataset="set", model="smolvlm", beside=True, prompt=question)
        done = await house.call(ask)
        written = question == "What of {tags}?"
        assert (done.written, done.beside) == ((2, 1) if written else (0, 3))
    assert (await captions(house))["000.png"].text == "What of ?"
    offered = await house.call(wire.GetCandidates(dataset="set", item="001.png"))
    assert (offered.candidates[0].text, offered.candidates[0].model) == (
        "Again: red, wings", "smolvlm",
    )  # fmt: skip
    with pytest.raises(LoraError, match="no field") as caught:
        await house.call(wire.CaptionPictures(dataset="set", prompt="{tag}"))
    assert caught.value.code == Code.BAD_REQUEST


TAGGER = {"model.onnx": b"net", "selected_tags.csv": b"name", "model.safetensors": b"timm"}


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A Hub with what the names here stand for, and a cache of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    chat = {"config.json": b"{}", "model.safetensors": b"w", "chat_template.jinja": b"x"}
    held = {CAPTIONERS["smolvlm"].hub: chat, CAPTIONERS["wd-vit"].hub: TAGGER}
    with Hub(held).served() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


async def test_a_named_captioner_is_fetched_once_and_is_there_without_a_network(
    house: House, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncaptioned(tmp_path / "set", 2)
    await house.call(wire.ImportDataset(path=str(tmp_path / "set")))
    ask = wire.CaptionPictures(dataset="set", model="wd-vit", filter="name:000*", threshold=0.4)
    assert (await house.call(ask)).written == 1
    assert not any("model.safetensors" in asked for asked in hub.asked)
    assert any("model.onnx" in asked for asked in hub.asked)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        ask = wire.CaptionPictures(dataset="set", model="wd-vit")
        assert (await house.call(ask)).written == 1
        with pytest.raises(
            LoraError, match=r"SmolVLM-Instruct could not be fetched.*--model /path"
        ):
            await house.call(wire.CaptionPictures(dataset="set", model="smolvlm", beside=True))


def test_of_a_repository_a_captioner_takes_what_it_reads() -> None:
    wanted = FromHub(id="a/b", kind="captioner")
    assert chosen([*TAGGER, "config.json", "README.md"], wanted) == [
        "model.onnx", "selected_tags.csv",
    ]  # fmt: skip
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    read = ["config.json", "merges.txt", "model.safetensors.index.json", *shards]
    rest = ["onnx/model.onnx", "pytorch_model.bin", "consolidated.safetensors", "README.md"]
    assert sorted(chosen([*read, *rest], wanted)) == sorted(read)
    with pytest.raises(LoraError, match=r"holds no captioner"):
        chosen(["config.json", "pytorch_model.bin"], wanted)


def test_every_name_stands_for_a_captioner() -> None:
    assert captioning._named("wd-eva02") == "SmilingWolf/wd-eva02-large-tagger-v3"
    keys = [one.key for one in CAPTIONERS.values()]
    assert len(set(keys)) == len(keys) and "o" not in keys
    with pytest.raises(LoraError, match=r"no captioner 'wd14'.*florence-2 \(florence-community/"):
        captioning._named("wd14")
