"""Addresses of files on the web that people type, and what their environment adds to them."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from shared import wire
from shared.errors import Code, LoraError
from shared.hub_ids import from_hub

CIVITAI = "https://civitai.com"
TOKENS = ("CIVITAI_API_TOKEN", "CIVITAI_TOKEN")  # where Civitai's token is looked for


def add_base(
    text: str, *, revision: str = "", file: str = "", mirror: str = "", offline: bool = False
) -> wire.AddBase | None:
    """The request for a base by its Hub id or its address; None if that is a path.

    Raises LoraError(BAD_REQUEST) for an address that is not taken.
    """
    if text.startswith((".", "~", "/")):
        return None
    hub = from_hub(text, revision=revision, file=file, mirror=mirror, offline=offline)
    if hub is not None:
        return wire.AddBase(hub=hub)
    if "://" not in text:
        return None
    if revision or file or (mirror and not is_civitai(text)):
        text = (
            "--revision, --file and --mirror are for models of the Hub; --mirror for Civitai too."
        )
        raise LoraError(Code.BAD_REQUEST, text)
    return wire.AddBase(address=from_address(text, mirror=mirror, offline=offline))


def from_address(text: str, *, mirror: str = "", offline: bool = False) -> wire.FromAddress:
    """A file's address, or that of one of Civitai's pages, with the client's token for Civitai:
    the address's own ``token=``, or that of its environment. Raises LoraError(BAD_REQUEST)."""
    mirror = mirror or os.environ.get("CIVITAI_ENDPOINT", "")
    check(text)
    if not is_civitai(text, mirror):
        return wire.FromAddress(url=text, offline=offline)
    parts = urlsplit(text)
    query = dict(parse_qsl(parts.query))
    token = query.pop("token", "") or civitai_token()
    url = parts._replace(query=urlencode(query), fragment="").geturl()
    return wire.FromAddress(url=url, token=token, mirror=mirror, offline=offline)


def civitai_token() -> str:
    """The token for Civitai in this process's environment; empty if there is none."""
    return next((os.environ[name] for name in TOKENS if os.environ.get(name)), "")


def is_civitai(url: str, mirror: str = "") -> bool:
    """Whether an address is Civitai's, or that of the mirror of it."""
    return host(url).removeprefix("www.") in (host(CIVITAI), host(mirror) if mirror else None)


def host(url: str) -> str:
    """Host and port, as an address names them."""
    parts = _split(url)
    port = {"http": 80, "https": 443}.get(parts.scheme)
    known = parts.port in (None, port)
    return (parts.hostname or "") if known else f"{parts.hostname}:{parts.port}"


def shown(url: str) -> str:
    """An address without its query, which may hold a signature or a token."""
    return _split(url)._replace(query="", fragment="").geturl()


def check(url: str) -> None:
    """Raises LoraError(BAD_REQUEST) for an address from which nothing is fetched."""
    parts = _split(url)
    if parts.username is not None or parts.password is not None:
        text = "The address has a user's name or password in it, which others would see in lists."
    elif parts.scheme not in ("http", "https"):
        text = f"lora-tui fetches nothing over {parts.scheme}."
    elif not parts.hostname:
        text = f"{shown(url)} names no host."
    elif parts.scheme == "http" and not is_loopback(url):
        text = f"{shown(url)} is not encrypted: anybody on the way could change the file."
    else:
        return
    advice = "Give its https address, or fetch the file yourself and add it by its path."
    raise LoraError(Code.BAD_REQUEST, f"{text} {advice}")


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine, as tunnels are."""
    name = _split(url).hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where it is no number
    except ValueError:
        raise LoraError(Code.BAD_REQUEST, "The address is not one: it cannot be read.") from None
    return parts
