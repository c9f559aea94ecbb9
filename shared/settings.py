"""This client's own settings, and who it says it is: everybody is root on a rented box."""

from __future__ import annotations

import getpass
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from shared.errors import Code, LoraError, in_words
from shared.files import publish
from shared.paths import config_dir

PictureMode = Literal["auto", "kitty", "sixel", "iterm2", "half-blocks", "off"]
PICTURE_MODES: tuple[PictureMode, ...] = get_args(PictureMode)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``settings.toml`` in the config directory; unknown keys are left to later versions."""

    name: str = ""  # shown to the others, written beside every change
    pictures: PictureMode = "auto"  # how the terminal UI shows pictures
    slow_link: bool = False  # small pictures of few colours, never sharp


def path() -> Path:
    """Where the settings file is, or would be."""
    return config_dir() / "settings.toml"


def load() -> Settings:
    """The settings; defaults where there is no file. Raises LoraError(INVALID_FILE)."""
    tree = _tree()
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise LoraError(
            Code.INVALID_FILE, f"Your settings in {path()}: {_wrong(tree, error)}."
        ) from None


def put(name: str, value: str | bool) -> Settings:
    """Change one setting in the file; everything else in it stays, comments too.

    Raises LoraError: BAD_REQUEST for a value it cannot have, INVALID_FILE, STORAGE.
    """
    import tomli_w

    tree = _tree() | {name: value}
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise LoraError(Code.BAD_REQUEST, f"{_wrong(tree, error)}.") from None
    line = tomli_w.dumps({name: value})
    text = path().read_text("utf-8") if path().exists() else ""
    present = re.compile(rf"^{re.escape(name)}[ \t]*=.*\n?", re.MULTILINE)
    text = present.sub(lambda _: line, text) if present.search(text) else line + text
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraError.storage("make the folder", path().parent, error) from None
    publish(path(), text.encode())
    return settings


def _wrong(tree: dict[str, Any], error: msgspec.ValidationError) -> str:
    pictures = tree.get("pictures", "auto")
    if pictures not in PICTURE_MODES:
        return f"pictures cannot be {pictures!r}; it can be one of {', '.join(PICTURE_MODES)}"
    return in_words(error)


def _tree() -> dict[str, Any]:
    try:
        return tomllib.loads(path().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LoraError.storage("read your settings in", path(), error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoraError(Code.INVALID_FILE, f"Your settings in {path()}: {error}.") from None


def pictures_of_environment() -> PictureMode | None:
    """What LORA_TUI_PICTURES says; None without it. Raises LoraError(BAD_REQUEST)."""
    said = os.environ.get("LORA_TUI_PICTURES", "").strip().lower()
    if said in ("no", "0"):
        return "off"
    try:
        return msgspec.convert(said, PictureMode) if said else None
    except msgspec.ValidationError:
        modes = ", ".join(PICTURE_MODES)
        raise LoraError(
            Code.BAD_REQUEST, f"LORA_TUI_PICTURES is {said!r}; it can be one of {modes}."
        ) from None


def client_name() -> str:
    """The name of the person or script: LORA_TUI_NAME, the settings file, else user@host."""
    chosen = os.environ.get("LORA_TUI_NAME") or load().name
    if chosen:
        return chosen
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user that nobody named
        user = f"uid{os.getuid()}"
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
