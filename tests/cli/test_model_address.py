"""``lora-tui model add ADDRESS``: from a shell, by a real daemon, from a site on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_daemon.engine import single_file
from lora_daemon.starter import base_dir
from shared.errors import Exit
from tests.cli.command_line import CommandLine
from tests.daemon.site import Page, Site

TOKEN = "a7f3-token-of-nobody"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A Civitai whose one model is the starter, and wants a token."""
    single_file.pack(base_dir(), tmp_path / "packed.safetensors")
    with Site().served() as served:
        file = {
            "name": "star.safetensors", "type": "Model", "metadata": {"format": "SafeTensor"},
            "downloadUrl": f"{served.address}/api/download/models/2",
        }  # fmt: skip
        version = {"id": 2, "modelId": 1, "model": {"type": "Checkpoint"}, "files": [file]}
        served.pages["/api/v1/model-versions/2"] = Page(json.dumps(version).encode())
        data = (tmp_path / "packed.safetensors").read_bytes()
        served.pages["/api/download/models/2"] = Page(data, token=TOKEN)
        yield served


def test_a_model_of_civitai_is_added_and_paints_and_its_token_is_nowhere(
    cli: CommandLine, site: Site
) -> None:
    url = f"{site.address}/models/1?modelVersionId=2"
    cli.environment |= {"CIVITAI_ENDPOINT": site.address, "NO_PROXY": "127.0.0.1"}
    status, error = cli.refused("model", "add", url)
    assert status == Exit.NOT_FOUND and "CIVITAI_API_TOKEN" in error["message"]
    cli.environment["CIVITAI_API_TOKEN"] = TOKEN
    base = cli.data("model", "add", url, "--name", "star")
    assert (base["name"], base["hub"]) == ("star", url)
    assert Path(base["path"]) == cli.home / "models" / "star.safetensors"
    assert url in cli.ok("model", "inspect", "star")
    again = cli.data("model", "add", url, "--name", "star", "--offline")
    assert again == base
    out = cli.home / "one.png"
    cli.ok("generate", "--base", "star", "--prompt", "a", "--steps", "1", "--out", str(out))
    assert out.exists()
    for file in cli.home.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_what_is_refused_says_why_and_what_to_do(cli: CommandLine, site: Site) -> None:
    for arguments, status, said in (
        (("http://example.com/a.safetensors",), Exit.FAILED, "https address"),
        ((f"{site.address}/none",), Exit.NOT_FOUND, "has nothing at"),
        ((f"{site.address}/none", "--revision", "v1"), Exit.FAILED, "models of the Hub"),
    ):
        found, error = cli.refused("model", "add", *arguments)
        assert found == status and said in error["message"]
