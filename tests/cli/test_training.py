"""A run from the command line: started, followed, steered, used, deleted."""

from __future__ import annotations

import json
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from shared.errors import Exit
from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures
from tests.engine import tiny_base

LONG = ("--set", "training.epochs=100000")


@pytest.fixture(scope="module")
def ready(shared_cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A workspace with a tiny base and a dataset of three pictures."""
    base = tiny_base.build(tmp_path_factory.mktemp("bases") / "tiny")
    shared_cli.ok("model", "add", str(base))
    folder = pictures(tmp_path_factory.mktemp("pictures") / "dragons")
    shared_cli.ok("dataset", "import", str(folder))
    return shared_cli


@pytest.fixture(scope="module")
def lora(ready: CommandLine) -> str:
    """The name of a trained LoRA."""
    ready.ok(*TRAIN, "--set", "output.name=drake", "--set", "output.trigger=drgn")
    return "drake"


TRAIN = (
    "train", "demo", "--base", "tiny", "--dataset", "dragons", "--set", "training.epochs=2",
    "--set", "dataset.repeats=2", "--set", "output.name=dragons",
    "--set", "training.batch_size=1", "--set", "schedule.warmup_steps=0",
)  # fmt: skip


def test_a_followed_run_ends_with_one_line_of_result(ready: CommandLine) -> None:
    done = ready(*TRAIN, "--set", "output.name=first")
    assert done.returncode == Exit.OK, done.stderr
    (line,) = done.stdout.splitlines()
    assert "finished, 12 steps" in line
    assert Path(line.partition(": ")[2]).is_file()
    first, *progress = done.stderr.splitlines()
    assert "first: 3 pictures, 12 steps on tiny" in first
    assert progress  # how much of it a quick run shows is up to the machine


def test_who_follows_a_run_reads_what_it_fell_back_to(ready: CommandLine) -> None:
    done = ready(*TRAIN, "--set", "optimizer.kind=adamw8bit", "--set", "output.name=eight")
    assert done.returncode == Exit.OK, done.stderr
    assert "AdamW cannot be had in 8 bits" in done.stderr
    shown = ready.ok("run", "show", "eight")
    assert shown.count("AdamW cannot be had in 8 bits") == 1


def test_of_the_loras_kept_on_the_way_only_the_last_stay(ready: CommandLine) -> None:
    ready.ok(
        *TRAIN, "--set", "save.every_steps=3", "--set", "save.keep_last=2",
        "--set", "output.name=last",
    )  # fmt: skip
    run = ready.data("run", "show", "last")
    assert [one["step"] for one in run["checkpoints"]] == [9, 12, 12]
    files = sorted(path.stem for path in Path(run["directory"], "lora").glob("*.safetensors"))
    assert files == ["last", "last-step000009", "last-step000012"]
    listed = [lora["name"] for lora in ready.data("lora", "list")["loras"]]
    assert sorted(name for name in listed if name.startswith("last")) == files


def test_a_followed_run_in_json_is_progress_then_the_result(ready: CommandLine) -> None:
    lines = [
        json.loads(line)
        for line in ready.ok(*TRAIN, "--set", "output.name=second", "--json").splitlines()
    ]
    *progress, result = lines
    assert all({"run", "state", "step"} <= set(line) for line in progress)
    assert {"run", "state", "steps", "loss", "lora"} <= set(result)
    assert (result["state"], result["steps"]) == ("finished", 12)
    assert Path(result["lora"]).is_file()


def test_ctrl_c_leaves_the_run_going(ready: CommandLine) -> None:
    process = ready.popen(*TRAIN, *LONG, "--name", "long")
    assert process.stderr is not None
    said = process.stderr.readline()
    run = said.split()[0]
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED
    assert f"{run} goes on without you" in rest
    assert "Traceback" not in rest
    assert ready.data("run", "show", run)["run"]["state"] in ("queued", "starting", "training")
    ready.ok("run", "stop", run)
    assert ready.data("run", "watch", run)["state"] == "stopped"


def test_status_and_list_follow_a_run_between_its_saves(ready: CommandLine) -> None:
    never = ("--set", "save.resume_seconds=3600")
    run = ready.data(*TRAIN, *LONG, *never, "--name", "followed", "--detach")["id"]
    seen: dict[str, set[int]] = {"status": set(), "list": set()}
    until = time.monotonic() + 120
    while min(map(len, seen.values())) < 3 and time.monotonic() < until:
        (now,) = (one for one in ready.data("status")["runs"] if one["id"] == run)
        seen["status"].add(now["step"])
        (now,) = (one for one in ready.data("run", "list")["runs"] if one["id"] == run)
        seen["list"].add(now["step"])
    ready.ok("run", "stop", run)
    assert min(map(len, seen.values())) >= 3


def test_a_run_is_steered_by_name_or_number(ready: CommandLine) -> None:
    run = ready.data(*TRAIN, *LONG, "--name", "steered", "--detach")
    assert run["state"] in ("queued", "starting", "training")
    ready.ok("run", "pause", "steered")
    ready.ok("run", "resume", run["id"])
    ready.ok("run", "save", "steered")
    ready.ok("run", "stop", "steered")
    ready.ok("run", "watch", "steered")
    detail = ready.data("run", "show", "steered")
    assert detail["run"]["state"] == "stopped"
    assert Path(detail["checkpoints"][-1]["path"]).is_file()
    assert "pause asked by tester" in ready.ok("run", "log", "steered")
    code, error = ready.refused("run", "pause", "steered")
    assert (code, error["code"]) == (Exit.FAILED, "wrong_state")


def test_a_run_that_fails_says_so_in_its_exit_status(ready: CommandLine, tmp_path: Path) -> None:
    picture = tmp_path / "doomed" / "only.png"
    picture.parent.mkdir()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(picture)  # of a content that nothing has cached
    ready.ok("dataset", "import", str(picture.parent))
    picture.write_bytes(b"no longer a picture")
    done = ready("train", "demo", "--base", "tiny", "--dataset", "doomed")
    assert done.returncode == Exit.RUN_FAILED, done.stderr
    assert "failed" in done.stdout
    assert "Traceback" not in done.stderr


def test_generate_writes_the_same_picture_twice(
    ready: CommandLine, lora: str, tmp_path: Path
) -> None:
    files = [tmp_path / "a b.png", tmp_path / "c.png"]
    for file in files:
        ready.ok("generate", "--base", "tiny", "--lora", f"{lora}:0.7", "--prompt", "a dragon",
                 "--steps", "4", "--sampler", "euler A", "--out", str(file))  # fmt: skip
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert b"<lora:drake:0.7>" in first
    assert b"Sampler: Euler a" in first


def test_generate_takes_a_lora_file_and_prints_where_the_picture_is(
    ready: CommandLine, lora: str
) -> None:
    path = ready.data("lora", "inspect", lora)["path"]
    made = ready.data("generate", "--base", "tiny", "--lora", path, "--prompt", "x", "--steps", "2")
    assert Path(made["path"]).read_bytes().startswith(b"\x89PNG")


def test_what_of_a_lora_was_left_out_is_said_of_a_picture_and_of_a_grid(
    ready: CommandLine, lora: str, tmp_path: Path
) -> None:
    tensors = load_file(ready.data("lora", "inspect", lora)["path"])
    strange = {name.replace("lora_unet_", "lora_unet_odd_"): one for name, one in tensors.items()}
    save_file(tensors | dict(sorted(strange.items())[:3]), tmp_path / "half.safetensors")
    asked = ("--base", "tiny", "--lora", str(tmp_path / "half.safetensors"), "--prompt", "x",
             "--steps", "1")  # fmt: skip
    said = "half: this base has no place for 1 of its "
    assert said in ready("generate", *asked).stderr
    assert said in ready.data("generate", *asked)["warnings"][-1]
    assert said in ready("grid", *asked, "-x", "seed=1,2").stderr


def test_a_mix_is_turned_and_painted_as_generate_would(
    ready: CommandLine, lora: str, tmp_path: Path
) -> None:
    mixed, generated = tmp_path / "mixed.png", tmp_path / "generated.png"
    settings = ("--base", "tiny", "--prompt", "a dragon", "--steps", "12", "--seed", "7",
                "--second", "1.5", "--redraw", "0.5", "--upscaler", "Lanczos")  # fmt: skip
    turned = ready.data("mix", "set", f"{lora}:0.3", "--decoder", "cheap", *settings)
    assert turned["webui"] == "a dragon <lora:drake:0.3>"
    ready.ok("mix", "set", f"<lora:{lora}:0.7:0.6>")  # what is not named stays
    assert "named twice" in ready.refused("mix", "set", lora, f"{lora}:0.5")[1]["message"]
    ready.ok("mix", "paint", "--out", str(mixed))
    ready.ok("generate", "--lora", f"<lora:{lora}:0.7:0.6>", *settings, "--out", str(generated))
    assert mixed.read_bytes() == generated.read_bytes()
    assert ready.ok("mix", "prompt").strip() == "a dragon <lora:drake:0.7:0.6>"
    assert ready.data("mix", "set", "--mute", lora)["webui"] == "a dragon"
    shown = ready.ok("mix", "show")
    assert "muted" in shown and "1.5 ×, redraw 0.5, Lanczos" in shown and "cheap" in shown
    assert ready.data("mix", "set", "--second", "1")["spec"]["second"] is None
    assert ready.ok("upscaler", "list").startswith("There are no networks; Latent and Lanczos")


def test_mixes_are_kept_by_name(ready: CommandLine, lora: str) -> None:
    ready.ok("mix", "set", f"{lora}:0.4", "--unmute", lora, "--prompt", "one")
    ready.ok("mix", "save", "of one")
    ready.ok("mix", "set", "--remove", lora, "--prompt", f"two <lora:{lora}:0.9>")
    assert ready.data("mix", "show")["webui"] == "two <lora:drake:0.9>"
    assert [mix["name"] for mix in ready.data("mix", "list")["mixes"]] == ["of one"]
    assert ready.data("mix", "load", "of one")["webui"] == "one <lora:drake:0.4>"
    assert ready.data("mix", "delete", "of one")["deleted"] == ["of one"]
    for arguments, code in (
        (("load", "of one"), Exit.NOT_FOUND),
        (("set", "nobody:0.5"), Exit.NOT_FOUND),
        (("set", "--mute", "nobody"), Exit.NOT_FOUND),
        (("set", f"{lora}:11"), Exit.FAILED),
    ):
        assert ready.refused("mix", *arguments)[0] == code, arguments
    assert ready.data("mix", "show")["webui"] == "one <lora:drake:0.4>"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--base", "tiyn"), Exit.NOT_FOUND),
        (("--base", "tiny", "--lora", "nobody"), Exit.NOT_FOUND),
        (("--base", "tiny", "--steps", "0"), Exit.FAILED),
        (("--base", "tiny", "--sampler", "Eule"), Exit.USAGE),
        (("--base", "tiny", "--size", "65x65"), Exit.FAILED),
    ],
)
def test_generate_refuses_what_cannot_be(
    ready: CommandLine, arguments: tuple[str, ...], code: Exit
) -> None:
    assert ready.refused("generate", "--prompt", "x", *arguments)[0] == code


def test_a_lora_file_is_inspected_without_a_daemon(
    ready: CommandLine, cli: CommandLine, lora: str
) -> None:
    path = ready.data("lora", "inspect", lora)["path"]
    info = cli.data("lora", "inspect", path, "--no-start")
    assert info["dialect"] == "kohya"
    assert info["base_version"] == "sd_v1"
    assert info["trigger"] == "drgn"
    assert not cli.home.exists()


def test_something_else_is_no_lora(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nonsense")
    code, error = cli.refused("lora", "inspect", str(path))
    assert code == Exit.INVALID
    assert str(path) in error["message"]


def test_a_base_may_be_a_folder_named_from_here(
    ready: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(ready.data("model", "inspect", "tiny")["path"])
    monkeypatch.chdir(base.parent)
    ready.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    made = ready.data("generate", "--base", f"./{base.name}", "--prompt", "x", "--steps", "1")
    assert Path(made["path"]).is_file()


def test_deleting_a_run_takes_its_files(ready: CommandLine) -> None:
    result = ready.data(*TRAIN, "--set", "output.name=gone")
    assert ready.refused("run", "delete", result["run"])[0] == Exit.FAILED
    assert Path(result["lora"]).exists()
    ready.ok("run", "delete", result["run"], "--yes")
    assert not Path(result["lora"]).exists()
    assert ready.refused("run", "show", result["run"])[0] == Exit.NOT_FOUND


def test_deleting_a_lora_takes_its_file(ready: CommandLine) -> None:
    result = ready.data(*TRAIN, "--set", "output.name=dropped")
    assert ready.data("lora", "delete", "dropped", "--yes") == {"deleted": ["dropped"]}
    assert not Path(result["lora"]).exists()
    assert ready.refused("lora", "inspect", "dropped")[0] == Exit.NOT_FOUND


def test_a_base_is_listed_and_a_folder_that_is_none_refused(
    ready: CommandLine, tmp_path: Path
) -> None:
    names = [base["name"] for base in ready.data("model", "list")["bases"]]
    assert "tiny" in names
    assert ready.data("model", "inspect", "tiny")["family"] == "sd1"
    code, _ = ready.refused("model", "add", str(tmp_path))
    assert code == Exit.INVALID
    _, error = ready.refused("model", "add", "http://example.com/model.safetensors")
    assert "is not encrypted" in error["message"]


def test_a_sweep_is_followed_compared_and_exported(ready: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    lines = ready.ok(
        *TRAIN, "--name", "swept",
        "--sweep", "network.rank=1,2", "--set", "training.max_steps=3", "--json",
    )  # fmt: skip
    found = json.loads(lines.splitlines()[-1])
    assert [one["settings"] for one in found["runs"]] == [["network.rank=1"], ["network.rank=2"]]
    assert found["differences"] == {"network.rank": ["1", "2"]}
    assert [one["state"] for one in found["runs"]] == ["finished", "finished"]
    out = tmp_path / "events"
    run = found["runs"][0]["run"]
    assert ready.data("run", "export-tensorboard", run, str(out))["points"] == 3
    read = [Event.FromString(body) for body in events(out)]
    losses = {e.step: v.simple_value for e in read for v in e.summary.value
              if v.tag == "train/loss"}  # fmt: skip
    assert sorted(losses) == [1, 2, 3] and all(loss > 0 for loss in losses.values())
    again = ready("run", "export-tensorboard", run, str(out))
    assert again.returncode == Exit.CONFLICT  # two runs in one folder would be drawn as one


def events(folder: Path) -> Iterator[bytes]:
    """The records of an event file: length, its masked crc32c, data, its masked crc32c."""
    from tensorboardX.crc32c import crc32c

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    [path] = folder.glob("events.out.tfevents.*")
    data = path.read_bytes()
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        assert struct.unpack_from("<I", data, place + 8)[0] == masked(data[place : place + 8])
        body = data[place + 12 : place + 12 + length]
        assert struct.unpack_from("<I", data, place + 12 + length)[0] == masked(body)
        yield body
        place += length + 16
