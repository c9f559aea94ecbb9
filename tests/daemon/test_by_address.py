"""Bases from an address: fetched by a process, from a site on this machine that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from lora_daemon import by_address
from lora_daemon.engine import single_file
from lora_daemon.starter import base_dir
from lora_daemon.web import Web
from shared import wire
from shared.addresses import CIVITAI, add_base, from_address
from shared.client import Client
from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor, encode
from tests.daemon.house import House
from tests.daemon.process import DaemonProcess
from tests.daemon.site import Page, Site

NAMES = ("CIVITAI_API_TOKEN", "CIVITAI_TOKEN", "CIVITAI_ENDPOINT")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *PROXIES, "NO_PROXY", "no_proxy", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The starter as one file."""
    path = tmp_path_factory.mktemp("packed") / "starter.safetensors"
    single_file.pack(base_dir(), path)
    return path.read_bytes()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().served() as served:
        yield served


async def _add(house: House, url: str, **more: object) -> wire.BaseModel:
    address = wire.FromAddress(url=url, **more)  # type: ignore[arg-type]
    return await house.call(wire.AddBase(address=address))


def _bytes(base: wire.BaseModel) -> bytes:
    return Path(base.path).read_bytes()


def _ranges(site: Site, path: str) -> list[str]:
    return [headers.get("Range", "") for asked, headers in site.asked if asked == path]


def _left(house: House) -> list[str]:
    """Files of the models' folder, whole or not, but for notes."""
    found = house.workspace.models.rglob("*.safetensors")
    return sorted(str(one.relative_to(house.workspace.models)) for one in found)


async def test_a_file_of_the_web_becomes_a_base_and_is_fetched_once(
    house: House, site: Site, base: bytes
) -> None:
    site.pages["/get/My%20Base.safetensors"] = Page(base)
    url = f"{site.address}/get/My%20Base.safetensors?signature=secret"
    added = await _add(house, url)
    place = house.workspace.models / "My Base.safetensors"
    assert (added.name, added.path) == ("My Base", str(place)) and place.read_bytes() == base
    assert added.hub == f"{site.address}/get/My%20Base.safetensors"
    (job,) = [job for job in house.domain.status().jobs if job.kind == "download"]
    assert job.state == "done" and job.done == job.total == len(base)
    assert not any("secret" in repr(event) for event in house.heard)
    inode = place.stat().st_ino
    again = await _add(house, url)
    assert again == added and place.stat().st_ino == inode and _left(house) == [place.name]
    assert await house.call(wire.InspectBase(base=added.name)) == added
    told = await house.call(wire.AddBase(path=added.path, predicts="epsilon"))
    assert told.told and told.hub == added.hub
    assert await _add(house, url) == added
    asked = len(site.asked)
    assert await _add(house, url, offline=True) == added and len(site.asked) == asked
    with pytest.raises(LoraError, match="asks nobody"):
        await _add(house, f"{site.address}/other", offline=True)


async def test_a_broken_download_goes_on_where_it_was(
    house: House, site: Site, base: bytes
) -> None:
    page = site.pages["/a.safetensors"] = Page(base, cuts=[1_000_000, 5_000_000])
    added = await _add(house, f"{site.address}/a.safetensors")
    first, *later = _ranges(site, "/a.safetensors")
    begun = [int(one[len("bytes=") : -1]) for one in later]
    assert not first and 0 < begun[0] <= 1_000_000 < begun[1] <= 5_000_000 and len(begun) == 2
    assert _bytes(added) == page.data


async def test_a_server_without_ranges_begins_anew(house: House, site: Site, base: bytes) -> None:
    site.pages["/a.safetensors"] = Page(base, cuts=[3_000_000], ranges=False)
    added = await _add(house, f"{site.address}/a.safetensors")
    assert _bytes(added) == base


async def test_halves_of_two_files_are_never_joined(house: House, site: Site, base: bytes) -> None:
    other = base[:1_000_000] + bytes(8) + base[1_000_008:]  # in what was fetched by then
    task, page = await _stopped_in_the_middle(house, site, base)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert page.held is not None
    page.held.set()
    site.pages["/a.safetensors"] = Page(other)
    added = await _add(house, f"{site.address}/a.safetensors")
    assert _ranges(site, "/a.safetensors")[-1] and _bytes(added) == other


async def _stopped_in_the_middle(
    house: House, site: Site, base: bytes
) -> tuple[asyncio.Task[wire.BaseModel], Page]:
    page = site.pages["/a.safetensors"] = Page(base, held=threading.Event())
    task = asyncio.create_task(_add(house, f"{site.address}/a.safetensors"))
    await house.until(lambda: any(job.done > 2_000_000 for job in house.domain.status().jobs))
    return task, page


async def test_a_slow_download_is_cancelled_at_once_and_goes_on_later(
    house: House, site: Site, base: bytes
) -> None:
    task, page = await _stopped_in_the_middle(house, site, base)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(task, return_exceptions=True)
    (job,) = house.domain.status().jobs
    assert job.state == "cancelled" and not (house.workspace.models / "a.safetensors").exists()
    assert page.held is not None
    page.held.set()
    added = await _add(house, f"{site.address}/a.safetensors")
    begun = int(_ranges(site, "/a.safetensors")[-1][len("bytes=") : -1])
    assert begun > 2_000_000 and _bytes(added) == base


async def test_a_download_outlives_a_killed_daemon(
    daemon: DaemonProcess, site: Site, base: bytes
) -> None:
    page = site.pages["/a.safetensors"] = Page(base, held=threading.Event())
    request = wire.AddBase(address=wire.FromAddress(url=f"{site.address}/a.safetensors"))
    daemon.start()
    reached = asyncio.Event()

    def progress(done: int, _total: int, _text: str) -> None:
        if done > 2_000_000:
            reached.set()

    async with await Client.connect(daemon.endpoint, name="tester") as client:
        task = asyncio.create_task(client.call(request, on_progress=progress))
        async with asyncio.timeout(60):
            await reached.wait()
        await daemon.kill()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert page.held is not None
    page.held.set()
    daemon.start()
    async with await Client.connect(daemon.endpoint, name="tester") as client:
        added = await client.call(request)
    begun = int(_ranges(site, "/a.safetensors")[-1][len("bytes=") : -1])
    assert begun > 2_000_000 and _bytes(added) == base


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_fault_that_passes_is_waited_out(
    house: House, site: Site, base: bytes, status: int
) -> None:
    soon = {"Retry-After": "0"}
    site.pages["/a.safetensors"] = Page(base, faults=[(status, soon)] * 3)
    added = await _add(house, f"{site.address}/a.safetensors")
    assert added.name == "a" and len(site.asked) == 4


@pytest.mark.parametrize(
    ("page", "code", "said"),
    [
        (Page(faults=[(429, {"Retry-After": "3600"})]), Code.UNREACHABLE, r"\(429\).*3,600 s"),
        (Page(faults=[(500, {"Retry-After": "0"})] * 9), Code.UNREACHABLE, r"fault of its own"),
        (Page(faults=[(403, {})]), Code.NOT_FOUND, "wants a login"),
        (Page(faults=[(304, {})]), Code.UNREACHABLE, r"refuses.*\(304\)"),
        (Page(location="http://[bad"), Code.WORKER_FAILED, "download broke: ValueError"),
        (Page(faults=[(404, {})]), Code.NOT_FOUND, "has nothing at"),
        (Page(location="/a.safetensors"), Code.UNREACHABLE, "on and on"),
        (Page(location="http://example.com/a"), Code.BAD_REQUEST, "not encrypted"),
        (Page(location="file:///etc/passwd"), Code.BAD_REQUEST, "nothing over file"),
        (
            Page(b"<html>log in", {"Content-Type": "text/html; charset=utf-8"}),
            Code.INVALID_FILE,
            "web page.*download button",
        ),
        (Page(b"<html>" + bytes(99)), Code.INVALID_FILE, "web page"),
        (Page(pickle.dumps([1, 2, 3] * 99)), Code.INVALID_FILE, "a is a pickle|a.safetensors is a"),
        (Page(b"abc"), Code.INVALID_FILE, "only 3 bytes"),
        (
            Page(b"x", {"Content-Disposition": "attachment; filename=model.ckpt"}),
            Code.INVALID_FILE,
            r"model\.ckpt is a pickle.*does not fetch",
        ),
    ],
)
async def test_what_is_no_base_is_refused_and_leaves_nothing(
    house: House, site: Site, page: Page, code: Code, said: str
) -> None:
    site.pages["/a.safetensors"] = page
    with pytest.raises(LoraError, match=said) as refused:
        await _add(house, f"{site.address}/a.safetensors?key=secret")
    assert refused.value.code is code and not _left(house)
    assert "secret" not in refused.value.message and ".fetching" not in refused.value.message


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_unet_x.lora_down.weight", "is a LoRA, not a base"),
        ("encoder.conv_in.weight", "is a VAE alone"),
    ],
)
async def test_a_lora_or_vae_is_told_by_its_first_bytes(
    house: House, site: Site, key: str, said: str
) -> None:
    """The rest is never sent: who waited for it would wait for ever."""
    file = encode({key: Tensor("F32", (2_000_000,), bytes(8_000_000))}, {})
    site.pages["/a.safetensors"] = Page(file, held=threading.Event())
    async with asyncio.timeout(20):
        with pytest.raises(LoraError, match=said):
            await _add(house, f"{site.address}/a.safetensors")
    assert not _left(house)


async def test_a_file_cut_short_by_who_put_it_there_is_refused(
    house: House, site: Site, base: bytes
) -> None:
    site.pages["/a.safetensors"] = Page(base[:-1000])
    site.pages["/b.safetensors"] = Page(base[:-1000], sized=False, tagged=False)
    for name in "ab":
        with pytest.raises(LoraError, match="cut short"):
            await _add(house, f"{site.address}/{name}.safetensors")
    assert not _left(house)


async def test_the_sum_that_a_redirect_tells_is_held_to(
    house: House, site: Site, base: bytes
) -> None:
    told = {"X-Linked-ETag": f'"{hashlib.sha256(base).hexdigest()}"'}
    site.pages["/b.safetensors"] = Page(location="/store", headers=told)
    site.pages["/store"] = Page(base[:-1] + b"\x7f")
    with pytest.raises(LoraError, match="came damaged"):
        await _add(house, f"{site.address}/b.safetensors")
    site.pages["/store"] = Page(base)
    assert (await _add(house, f"{site.address}/b.safetensors")).name == "b"


async def test_a_proxy_is_taken_from_the_environment(
    house: House, site: Site, base: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.address)
    site.pages["http://127.0.0.1:9/a.safetensors"] = Page(base)
    assert (await _add(house, "http://127.0.0.1:9/a.safetensors")).name == "a"


async def test_a_file_whose_length_is_not_told_is_taken(
    house: House, site: Site, base: bytes
) -> None:
    site.pages["/a.safetensors"] = Page(base, sized=False, tagged=False)
    added = await _add(house, f"{site.address}/a.safetensors")
    assert _bytes(added) == base


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ('attachment; filename="../../evil.safetensors"', "evil"),
        ('attachment; filename="..\\\\evil.safetensors"', "evil"),
        ("attachment; filename*=UTF-8''na%C3%AFve.safetensors", "naïve"),
        ("attachment; filename=.safetensors", "safetensors"),
        ("attachment; filename=" + "x" * 400 + ".safetensors", "x" * 180),
        ("inline", "get"),
    ],
)
async def test_a_file_is_called_as_the_server_says_but_stays_in_its_folder(
    house: House, site: Site, base: bytes, told: str, name: str
) -> None:
    site.pages["/get"] = Page(base, {"Content-Disposition": told})
    added = await _add(house, f"{site.address}/get")
    assert Path(added.path).parent == house.workspace.models and added.name == name


@pytest.mark.parametrize("name", ["/x.safetensors", "../x.safetensors", ".."])
def test_a_name_that_is_a_path_goes_no_further(name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        by_address._Note(name=name)
    with pytest.raises(ValueError, match="path"):
        by_address._Note(published=name)


async def test_no_file_takes_the_place_of_another(house: House, site: Site, base: bytes) -> None:
    house.workspace.models.mkdir()
    mine = house.workspace.models / "a.safetensors"
    mine.write_bytes(b"mine")
    site.pages["/a.safetensors"] = Page(base)
    added = await _add(house, f"{site.address}/a.safetensors")
    assert mine.read_bytes() == b"mine" and Path(added.path).name == "a-2.safetensors"


async def test_a_name_that_is_taken_is_refused_before_anything_is_fetched(
    house: House, site: Site
) -> None:
    address = wire.FromAddress(url=f"{site.address}/a.safetensors")
    with pytest.raises(LoraError, match="another name") as refused:
        await house.call(wire.AddBase(address=address, name="starter"))
    assert refused.value.code is Code.ALREADY_EXISTS and not site.asked


async def test_nobody_there_and_no_such_name_are_told_apart(house: House) -> None:
    for url, said in (
        ("http://127.0.0.1:9/a", "connection to 127.0.0.1:9 broke"),
        ("https://nowhere.invalid/a?token=secret", "nowhere.invalid is not known here"),
    ):
        with pytest.raises(LoraError, match=said) as refused:
            await _add(house, url)
        assert refused.value.code is Code.UNREACHABLE and "secret" not in refused.value.message


async def test_a_certificate_that_is_not_trusted_is_told(
    house: House,
) -> None:
    certificate = Path(__file__).with_name("localhost.pem")
    with Site().served(certificate) as site, pytest.raises(LoraError) as refused:
        await _add(house, f"{site.address}/a.safetensors")
    assert "certificate of 127.0.0.1" in refused.value.message
    assert "self-signed" in refused.value.message


async def test_a_disk_that_is_too_small_is_told_before(
    house: House, site: Site, base: bytes
) -> None:
    site.pages["/a.safetensors"] = Page(base, {"Content-Length": str(10**15)}, sized=False)
    with pytest.raises(LoraError, match=r"needs 1,000,000,000 MB more") as refused:
        await _add(house, f"{site.address}/a.safetensors")
    assert refused.value.code is Code.STORAGE


async def test_a_disk_that_fills_on_the_way_stops_it_and_room_lets_it_go_on(
    mount: Callable[[str], None], daemon: DaemonProcess, site: Site, base: bytes
) -> None:
    mount("size=90m")
    page = site.pages["/a.safetensors"] = Page(base, held=threading.Event())
    request = wire.AddBase(address=wire.FromAddress(url=f"{site.address}/a.safetensors"))
    filler = daemon.home / "filler"

    def progress(done: int, _total: int, _text: str) -> None:
        if done > 2_000_000 and page.held is not None and not page.held.is_set():
            filler.write_bytes(bytes(22_000_000))
            page.held.set()

    daemon.start()
    async with await Client.connect(daemon.endpoint, name="tester") as client:
        with pytest.raises(LoraError, match="The disk is full") as refused:
            await client.call(request, on_progress=progress)
        assert refused.value.code is Code.STORAGE
        filler.unlink()
        added = await client.call(request)
    assert _ranges(site, "/a.safetensors")[-1] and _bytes(added) == base


def test_a_site_of_the_web_sends_nobody_on_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()
    answer.status_code, answer.raw = 302, io.BytesIO()
    answer.headers["Location"] = "http://127.0.0.1:8188/view"
    monkeypatch.setattr(Web, "_ask", lambda *_: answer)
    with pytest.raises(LoraError, match="sends on to this machine itself"):
        Web("", CIVITAI).get("https://example.com/a.safetensors")


# ── Civitai ─────────────────────────────────────────────────────────────────────────────────────


def _version(base: bytes, kind: str = "Checkpoint") -> dict[str, object]:
    sha256 = hashlib.sha256(base).hexdigest().upper()

    def file(name: str, query: str, size: str, fp: str, **more: object) -> dict[str, object]:
        return {
            "id": 1, "name": name, "type": "Model", "sizeKB": len(base) / 1024,
            "metadata": {"format": "SafeTensor", "size": size, "fp": fp},
            "hashes": {"SHA256": sha256, "AutoV2": sha256[:10]},
            "downloadUrl": f"https://civitai.com/api/download/models/456{query}", **more,
        }  # fmt: skip

    pickled = {"metadata": {"format": "PickleTensor", "size": "pruned", "fp": "fp16"}}
    return {
        "id": 456, "modelId": 123, "name": "v5", "model": {"name": "Real", "type": kind},
        "files": [
            file("real_full.safetensors", "?size=full&fp=fp32", "full", "fp32", primary=True),
            file("real.ckpt", "?format=PickleTensor", "pruned", "fp16", **pickled),
            file("real_pruned.safetensors", "?size=pruned&fp=fp16", "pruned", "fp16"),
            file("real.vae.safetensors", "?type=VAE", "pruned", "fp16", type="VAE"),
        ],
    }  # fmt: skip


@pytest.fixture
def civitai(site: Site, base: bytes, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with Civitai's API, which wants a token, and its store elsewhere, which must not."""
    monkeypatch.setenv("CIVITAI_ENDPOINT", site.address)
    listed = {"id": 123, "modelVersions": [{"id": 456}, {"id": 1}]}
    site.pages["/api/v1/models/123"] = Page(json.dumps(listed).encode())
    site.pages["/api/v1/model-versions/456"] = Page(json.dumps(_version(base)).encode())
    return site


@pytest.fixture
def store(civitai: Site, base: bytes) -> Iterator[Site]:
    with Site().served() as other:
        other.pages["/real"] = Page(base)
        civitai.pages["/api/download/models/456"] = Page(
            location=f"{other.address}/real?signature=s", token="secret"
        )
        yield other


@pytest.mark.parametrize(
    "path",
    [
        "/models/123/real-one?modelVersionId=456",
        "/models/123",
        "/api/download/models/456",
        "/api/v1/model-versions/456",
    ],
)
async def test_a_page_of_civitai_is_its_pruned_half_precision_file(
    house: House, civitai: Site, store: Site, path: str
) -> None:
    added = await _add(house, f"{civitai.address}{path}", token="secret")
    assert added.name == "real_pruned"
    assert added.hub == f"{civitai.address}/models/123?modelVersionId=456"
    (other,) = added.passed_over
    assert other.startswith("real_full.safetensors (full, fp32,") and "size=full" in other
    assert not any("secret" in repr(event) for event in house.heard)


async def test_another_file_of_civitais_is_had_by_its_download(
    house: House, civitai: Site, store: Site
) -> None:
    url = f"{civitai.address}/api/download/models/456?type=Model&size=full&fp=fp32"
    assert (await _add(house, url, token="secret")).name == "real_full"
    with pytest.raises(LoraError, match=r"no \.safetensors file of a model as asked for.*real_fu"):
        await _add(house, f"{civitai.address}/api/download/models/456?fp=fp8", token="secret")


async def test_the_token_is_told_to_civitai_and_to_nobody_it_redirects_to(
    house: House, civitai: Site, store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await _add(house, f"{civitai.address}/models/123", token="secret")
    assert {h.get("Authorization") for _, h in civitai.asked} == {"Bearer secret"}
    assert [h.get("Authorization") for _, h in store.asked] == [None]
    await _add(house, f"{store.address}/real", token="secret")
    assert {h.get("Authorization") for _, h in store.asked} == {None}


@pytest.mark.parametrize(("token", "said"), [("", "CIVITAI_API_TOKEN"), ("wrong", "not with the")])
async def test_without_the_right_token_it_is_said_how_to_give_one(
    house: House, civitai: Site, store: Site, token: str, said: str
) -> None:
    with pytest.raises(LoraError, match=said) as refused:
        await _add(house, f"{civitai.address}/models/123", token=token)
    assert refused.value.code is Code.NOT_FOUND
    civitai.pages["/api/download/models/456"] = Page(location="/login?returnUrl=%2F")
    with pytest.raises(LoraError, match=said):
        await _add(house, f"{civitai.address}/models/123", token=token)


async def test_a_damaged_file_is_known_by_its_sum_and_deleted(
    house: House, civitai: Site, store: Site, base: bytes
) -> None:
    store.pages["/real"] = Page(base[:-1] + b"\x7f")
    with pytest.raises(LoraError, match="came damaged"):
        await _add(house, f"{civitai.address}/models/123", token="secret")
    assert not _left(house)


async def test_what_is_no_checkpoint_there_is_called_what_it_is(
    house: House, civitai: Site, base: bytes
) -> None:
    page = civitai.pages["/api/v1/model-versions/456"]
    for kind, said in (("LORA", "is a LoRA.*lora index"), ("VAE", "calls it VAE")):
        page.data = json.dumps(_version(base, kind)).encode()
        with pytest.raises(LoraError, match=said):
            await _add(house, f"{civitai.address}/models/123")
    page.data = b"<html>"
    with pytest.raises(LoraError, match="not Civitai's API"):
        await _add(house, f"{civitai.address}/models/123")
    with pytest.raises(LoraError, match="not the page of a model"):
        await _add(house, f"{civitai.address}/images/5")
    with pytest.raises(LoraError, match="has nothing at"):
        await _add(house, f"{civitai.address}/models/9")


# ── what people type ────────────────────────────────────────────────────────────────────────────


def test_a_token_in_an_address_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = from_address("https://civitai.com/api/download/models/4?token=abc&fp=fp16")
    assert (found.url, found.token) == ("https://civitai.com/api/download/models/4?fp=fp16", "abc")
    monkeypatch.setenv("CIVITAI_TOKEN", "mine")
    assert from_address("https://civitai.com/models/4").token == "mine"
    assert from_address("https://civitai.com.evil.net/models/4").token == ""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("http://example.com/a.safetensors", "not encrypted"),
        ("ftp://example.com/a", "nothing over ftp"),
        ("https://me:pass@example.com/a", "password in it"),
        ("https:///a", "names no host"),
        ("https://[::1/a", "cannot be read"),
    ],
)
def test_an_address_that_is_not_taken_says_why(typed: str, said: str) -> None:
    with pytest.raises(LoraError, match=said) as refused:
        add_base(typed)
    assert refused.value.code is Code.BAD_REQUEST and "pass@" not in refused.value.message


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("https://huggingface.co/me/it/resolve/main/x.safetensors",
         ("me/it", "main", "x.safetensors")),
        ("https://huggingface.co/me/it/blob/refs%2Fpr%2F1/a/x%20y.safetensors?download=true",
         ("me/it", "refs/pr/1", "a/x y.safetensors")),
        ("https://huggingface.co/me/it/tree/v2", ("me/it", "v2", "")),
        ("https://hf.co/me/it", ("me/it", "", "")),
        ("https://hub.local/me/it/blob/main/x.safetensors", ("me/it", "main", "x.safetensors")),
    ],
)  # fmt: skip
def test_a_file_of_the_hub_is_asked_of_the_hub(
    typed: str, expected: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.local")
    request = add_base(typed)
    assert request is not None and request.hub is not None and request.address is None
    assert (request.hub.id, request.hub.revision, request.hub.file) == expected


def test_a_path_is_no_address() -> None:
    assert add_base("/m/a.safetensors") is None and add_base("~/a") is None
    assert add_base("a.safetensors") is None
    for more in ({"revision": "v1"}, {"file": "x"}, {"mirror": "https://hub.local"}):
        with pytest.raises(LoraError, match="--revision"):
            add_base("https://example.com/a.safetensors", **more)
    request = add_base("https://civitai.com/models/1", mirror="https://civit.local")
    assert request and request.address and request.address.mirror == "https://civit.local"
