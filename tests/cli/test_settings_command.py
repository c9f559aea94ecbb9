"""``lora-tui settings``: what there is, what is changed, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui import cli
from lora_tui.graphics import query
from shared import settings
from shared.errors import Exit

Say = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("LORA_TUI_PICTURES", "LORA_TUI_DEBUG", "TMUX", "STY", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")


def said(out: Say, *arguments: str) -> Any:
    assert cli.main(["settings", *arguments, "--json"]) == Exit.OK
    return json.loads(out.readouterr().out)


def test_settings_are_listed_and_changed(capsys: Say) -> None:
    assert said(capsys, "list")["here"]["protocol"] == "kitty"
    assert said(capsys, "set", "pictures", "half-blocks")["settings"]["pictures"] == "half-blocks"
    assert said(capsys, "set", "slow_link", "yes")["settings"]["slow_link"] is True
    listed = said(capsys, "list")
    assert listed["here"] == {"protocol": "half-blocks", "why": "you chose it", "tmux": False}
    assert cli.main(["settings", "list"]) == Exit.OK
    assert "pictures in this terminal: half-blocks" in capsys.readouterr().out


def test_what_a_setting_cannot_be_is_said(capsys: Say) -> None:
    choice = "one of auto, kitty, sixel, iterm2, half-blocks, off"
    for name, value, can in (("pictures", "huge", choice), ("slow_link", "perhaps", "true")):
        assert cli.main(["settings", "set", name, value]) != Exit.OK
        said = capsys.readouterr().err
        assert f"'{value}'" in said and can in said and "$" not in said
    assert settings.load() == settings.Settings()
    settings.path().parent.mkdir(parents=True)
    settings.path().write_text('pictures = "huge"')
    assert cli.main(["settings", "list"]) == Exit.INVALID
    assert choice in capsys.readouterr().err


def test_the_terminal_is_asked_and_its_answer_kept(
    capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "ask", lambda: query.Answer("XTerm(390)", sixel=True))
    assert said(capsys, "detect")["protocol"] == "sixel"
    assert settings.load().pictures == "auto"
    assert said(capsys, "detect", "--save")["saved"] is True
    assert settings.load().pictures == "sixel"
    monkeypatch.setattr(query, "ask", lambda: None)
    assert cli.main(["settings", "detect", "--save"]) != Exit.OK
    assert "does not answer" in capsys.readouterr().err
    assert settings.load().pictures == "sixel"
