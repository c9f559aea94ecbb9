"""Which file an address of Civitai's means, by its public API.

https://developer.civitai.com/site/reference: ``models/ID`` lists versions, the newest first;
``model-versions/ID`` lists a version's files with their SHA-256.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, parse_qsl, urlsplit

import msgspec

from lora_daemon.web import Web
from shared.addresses import shown
from shared.errors import Code, LoraError

_MODEL = re.compile(r"/(?:api/v1/)?models/(\d+)(?:/.*)?")
_VERSION = re.compile(r"/(?:api/download/models|(?:api/v1/)?model-versions)/(\d+)/?")
_PRECISIONS = ("fp16", "bf16", None, "fp32")  # of weights, the best to train on first
_LORAS = {"LORA", "LoCon", "DoRA"}
T = TypeVar("T")


class _Meta(msgspec.Struct):
    format: str | None = None
    size: str | None = None
    fp: str | None = None


class _File(msgspec.Struct):
    name: str
    download: str | None = msgspec.field(name="downloadUrl", default=None)
    type: str = ""
    kilobytes: float | None = msgspec.field(name="sizeKB", default=None)
    primary: bool | None = None
    metadata: _Meta | None = None
    hashes: dict[str, str | None] | None = None

    @property
    def meta(self) -> _Meta:
        return self.metadata or _Meta()

    @property
    def fits(self) -> bool:
        return bool(
            self.type in ("Model", "Pruned Model")
            and self.download
            and (self.meta.format == "SafeTensor" or self.name.endswith(".safetensors"))
        )

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """The lowest is taken: pruned, in half precision, the one that the page offers first."""
        known = self.meta.fp in _PRECISIONS
        precision = _PRECISIONS.index(self.meta.fp) if known else len(_PRECISIONS)
        return self.meta.size != "pruned", precision, not self.primary

    def __str__(self) -> str:
        said = [self.meta.size, self.meta.fp]
        said += [f"{self.kilobytes * 1024 / 1e9:.1f} GB"] if self.kilobytes else []
        return f"{self.name} ({', '.join(filter(None, said))})"


class _Kind(msgspec.Struct):
    type: str = ""
    name: str = ""


class _Version(msgspec.Struct):
    id: int
    model: _Kind | None = None
    model_id: int = msgspec.field(name="modelId", default=0)
    files: list[_File] = []


class _Stub(msgspec.Struct):
    id: int


class _Model(msgspec.Struct):
    versions: list[_Stub] = msgspec.field(name="modelVersions", default_factory=list)


class Source(NamedTuple):
    """A file to fetch. ``origin``: its address as it is told and kept."""

    url: str
    origin: str
    name: str = ""  # empty: as the server says
    sha256: str = ""  # empty: not told beforehand
    passed_over: list[str] = []


def resolve(url: str, endpoint: str, web: Web) -> Source:
    """The base that a page or a download of Civitai's (or of its mirror at ``endpoint``) is.

    Raises LoraError: BAD_REQUEST, NOT_FOUND, INVALID_FILE saying what it is instead, and as
    ``Web.get``.
    """
    endpoint = endpoint.rstrip("/")
    parts = urlsplit(url)
    number = parse_qs(parts.query).get("modelVersionId", [""])[0]
    if not number.isdecimal() and (match := _VERSION.fullmatch(parts.path)):
        number = match[1]
    if not number.isdecimal():
        if (match := _MODEL.fullmatch(parts.path)) is None:
            raise LoraError(Code.BAD_REQUEST, f"{shown(url)} is not the page of a model.")
        versions = _answer(web, f"{endpoint}/api/v1/models/{match[1]}", _Model).versions
        if not versions:
            raise LoraError(Code.NOT_FOUND, f"{shown(url)} has no version to fetch.")
        number = str(versions[0].id)
    version = _answer(web, f"{endpoint}/api/v1/model-versions/{number}", _Version)
    page = f"{endpoint}/models/{version.model_id}?modelVersionId={version.id}"
    _refuse_others(version, page)
    fits = sorted((one for one in version.files if one.fits), key=lambda one: one.rank)
    asked = dict(parse_qsl(parts.query)) if "/download/" in parts.path else {}
    wanted = [one for one in fits if _matches(one, asked)]
    if not wanted:
        there = ", ".join(map(str, version.files)) or "none"
        raise LoraError(
            Code.INVALID_FILE,
            f"{page} has no .safetensors file of a model{' as asked for' * bool(fits)}. Its files: "
            f"{there}."
            + " A pickle can run any program when opened, so lora-tui takes none."
            * (not fits),
        )
    taken = wanted[0]
    return Source(
        _here(taken, endpoint), page, taken.name,
        str((taken.hashes or {}).get("SHA256") or "").lower(),
        [f"{one} {_here(one, endpoint)}" for one in fits if one is not taken],
    )  # fmt: skip


def _here(file: _File, endpoint: str) -> str:
    """A file's address, at the mirror where there is one."""
    parts = urlsplit(file.download or "")
    return f"{endpoint}{parts.path}{'?' * bool(parts.query)}{parts.query}"


def _matches(file: _File, asked: dict[str, str]) -> bool:
    """Whether it is what the query of a download asks for."""
    says = {
        "type": file.type, "format": file.meta.format, "size": file.meta.size, "fp": file.meta.fp
    }  # fmt: skip
    return all(says[name] == value for name, value in asked.items() if name in says)


def _refuse_others(version: _Version, page: str) -> None:
    kind = version.model.type if version.model else "Checkpoint"
    if kind in _LORAS:
        raise LoraError(
            Code.INVALID_FILE,
            f"{page} is a LoRA, not a base. Fetch it to a folder of LoRAs, and list that with "
            "`lora-tui lora index FOLDER`.",
        )
    if kind != "Checkpoint":
        raise LoraError(
            Code.INVALID_FILE,
            f"{page} is no base: Civitai calls it {kind}. A base is a Checkpoint there.",
        )


def _answer(web: Web, url: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(web.read(url), type=kind)
    except msgspec.MsgspecError:
        text = f"What answers at {shown(url)} is not Civitai's API."
        raise LoraError(Code.UNREACHABLE, text) from None
