"""The person's own settings: read, changed a line at a time, with every mistake said."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import settings
from shared.errors import Code, LoraError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LORA_TUI_PICTURES", raising=False)


def test_one_setting_is_changed_and_all_else_stays() -> None:
    assert settings.put("pictures", "sixel").pictures == "sixel"
    settings.path().write_text('# mine\nname = "ana" # me\npictures = "sixel"\n[later]\nx = 1\n')
    settings.put("pictures", "off")
    settings.put("slow_link", True)
    assert settings.path().read_text() == (
        'slow_link = true\n# mine\nname = "ana" # me\npictures = "off"\n[later]\nx = 1\n'
    )
    read = settings.load()
    assert (read.name, read.pictures, read.slow_link) == ("ana", "off", True)


def test_what_a_setting_cannot_be_changes_nothing() -> None:
    settings.put("name", "ana")
    with pytest.raises(LoraError, match="cannot be 'big'") as caught:
        settings.put("pictures", "big")
    assert caught.value.code is Code.BAD_REQUEST
    assert settings.load() == settings.Settings(name="ana")
    settings.path().write_text("pictures = 3")
    with pytest.raises(LoraError, match="Your settings"):
        settings.load()
    settings.path().write_text("slow_link = 3")
    with pytest.raises(LoraError, match="slow_link must be true or false, not a whole number"):
        settings.load()


def test_the_environment_has_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.pictures_of_environment() is None
    for said, meant in (("0", "off"), ("KITTY", "kitty"), ("half-blocks", "half-blocks")):
        monkeypatch.setenv("LORA_TUI_PICTURES", said)
        assert settings.pictures_of_environment() == meant
    monkeypatch.setenv("LORA_TUI_PICTURES", "big")
    with pytest.raises(LoraError, match="half-blocks, off"):
        settings.pictures_of_environment()
