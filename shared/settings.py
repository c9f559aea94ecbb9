"""This client's own settings, and who it says it is: everybody is root on a rented box."""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path

import msgspec

from shared.errors import Code, LoraError
from shared.paths import config_dir


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``settings.toml`` in the config directory; unknown keys are left to later versions."""

    name: str = ""  # shown to the others, written beside every change


def path() -> Path:
    """Where the settings file is, or would be."""
    return config_dir() / "settings.toml"


def load() -> Settings:
    """The settings; defaults where there is no file. Raises LoraError(INVALID_FILE)."""
    try:
        text = path().read_text("utf-8")
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise LoraError.storage("read your settings in", path(), error) from None
    try:
        return msgspec.convert(tomllib.loads(text), Settings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LoraError(Code.INVALID_FILE, f"Your settings in {path()}: {error}.") from None


def client_name() -> str:
    """The name of the person or script: LORA_TUI_NAME, the settings file, else user@host."""
    chosen = os.environ.get("LORA_TUI_NAME") or load().name
    if chosen:
        return chosen
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}"
    return f"{user}@{origin() or host()}"


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


def origin() -> str:
    """The address this SSH session came from; empty without one."""
    return os.environ.get("SSH_CONNECTION", "").split(" ")[0]


def terminal() -> str:
    """The terminal's device, for telling two windows of one person apart; empty without one."""
    for descriptor in (0, 1, 2):
        try:
            return os.ttyname(descriptor).removeprefix("/dev/")
        except OSError:
            continue
    return ""
