"""The commands against a real daemon: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lora_tui import app
from lora_tui.cli import main
from shared import __version__
from shared.errors import Exit
from shared.safetensors_file import Tensor, write
from tests.cli.command_line import CommandLine
from tests.daemon.process import pictures

ODD = "my 'odd' \"set\"\n🐉 $HOME"  # a folder's name that breaks careless quoting


@pytest.fixture(scope="module")
def dragons(shared_cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an imported dataset of three pictures."""
    folder = pictures(tmp_path_factory.mktemp("pictures") / "dragons")
    dataset = shared_cli.data("dataset", "import", str(folder))["dataset"]
    assert dataset["items"] == 3
    return str(dataset["name"])


def test_the_version_is_one_line(cli: CommandLine) -> None:
    assert cli.ok("--version") == f"lora-tui {__version__}\n"


def test_without_a_terminal_the_terminal_ui_says_what_to_do(cli: CommandLine) -> None:
    code, error = cli.refused()
    assert code == Exit.FAILED
    assert "--help" in error["message"]


def test_the_keymap_is_printed_as_a_file_that_can_be_read(cli: CommandLine) -> None:
    printed = tomllib.loads(cli.ok("--print-keymap"))
    assert {"app", "review", "runs"} <= set(printed)


@pytest.mark.parametrize("option", [(), ("--no-pictures",)])
def test_pictures_are_left_out_when_asked(
    option: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def run(*_: object, **options: object) -> int:
        asked.update(options)
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(list(option)) == Exit.OK
    assert asked["pictures"] is not bool(option)


def test_status_starts_no_daemon_and_says_how_to(cli: CommandLine) -> None:
    code, error = cli.refused("status")
    assert code == Exit.UNREACHABLE
    assert error["code"] == "unreachable"
    assert "lora-tui daemon start" in error["message"]
    assert not cli.home.exists()


def test_no_start_is_obeyed_by_every_command(cli: CommandLine) -> None:
    assert cli.refused("dataset", "list", "--no-start")[0] == Exit.UNREACHABLE


def test_status_tells_what_scripts_need(shared_cli: CommandLine) -> None:
    shared_cli.ok("daemon", "start")
    status = shared_cli.data("status")
    assert status["pid"] > 0
    assert status["endpoint"].startswith("ipc://")
    assert status["home"] == str(shared_cli.home)
    assert status["version"] == __version__
    assert {"python", "protocol", "schema"} <= set(status["versions"])
    assert status["runs"] == []
    assert status["devices"][0]["kind"] in ("cpu", "cuda")


def test_starting_twice_is_one_daemon(shared_cli: CommandLine) -> None:
    first = shared_cli.data("daemon", "start")["pid"]
    assert shared_cli.data("daemon", "start")["pid"] == first


def test_a_daemon_stops_and_its_log_can_still_be_read(cli: CommandLine) -> None:
    pid = cli.data("daemon", "start")["pid"]
    assert cli.data("daemon", "stop") == {"stopped": pid}
    assert cli("status").returncode == Exit.UNREACHABLE
    assert "ready" in cli.ok("daemon", "logs")


def test_a_restarted_daemon_is_another_process(cli: CommandLine) -> None:
    first = cli.data("daemon", "start")["pid"]
    assert cli.data("daemon", "restart")["pid"] != first


def test_gpus_that_are_not_there_stop_no_daemon(shared_cli: CommandLine) -> None:
    first = shared_cli.data("daemon", "start")["pid"]
    without = CommandLine(shared_cli.home, CUDA_VISIBLE_DEVICES="")
    for verb, why in (("start", "restart --gpus 7"), ("restart", "goes on as it is. LORA_TUI_G")):
        _, error = without.refused("daemon", verb, "--gpus", "7")
        assert why in error["message"]
    assert shared_cli.data("status")["pid"] == first


def test_options_for_everywhere_stand_before_or_after(shared_cli: CommandLine) -> None:
    shared_cli.ok("daemon", "start")
    before = json.loads(shared_cli.ok("--json", "dataset", "list"))
    after = json.loads(shared_cli.ok("dataset", "list", "--json"))
    assert before == after


def test_an_endpoint_reaches_the_daemon_of_another_workspace(
    shared_cli: CommandLine, cli: CommandLine, dragons: str
) -> None:
    endpoint = shared_cli.data("status")["endpoint"]
    names = [d["name"] for d in cli.data("dataset", "list", "--endpoint", endpoint)["datasets"]]
    assert dragons in names


def test_a_folder_is_imported_and_a_second_time_changes_nothing(
    cli: CommandLine, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "cats", 2)
    first = cli.data("dataset", "import", str(folder), "--name", "kittens")
    assert (first["added"], first["dataset"]["name"]) == (2, "kittens")
    again = cli.data("dataset", "import", str(folder), "--name", "kittens")
    assert (again["added"], again["updated"]) == (0, 0)


def test_a_relative_path_means_this_directory(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "here", 1)
    monkeypatch.chdir(tmp_path)
    environment = {**cli.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        cli.command("dataset", "import", "here", "--json"), env=environment, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    imported = json.loads(done.stdout.splitlines()[-1])
    assert imported["dataset"]["path"] == str(tmp_path / "here")


def test_a_missing_folder_is_not_found(shared_cli: CommandLine) -> None:
    code, error = shared_cli.refused("dataset", "import", "/nowhere/at all")
    assert code == Exit.NOT_FOUND
    assert "/nowhere/at all" in error["message"]


def test_names_with_quotes_line_breaks_and_emoji_work_everywhere(
    cli: CommandLine, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / ODD, 1)
    (folder / "000.png").rename(folder / "a\n'b' 龍.png")
    (folder / "000.txt").rename(folder / "a\n'b' 龍.txt")
    assert cli.data("dataset", "import", str(folder))["dataset"]["name"] == ODD
    item = cli.data("caption", "set", ODD, "a\n'b' 龍.png", "新 caption")
    assert item["caption"]["text"] == "新 caption"
    table = cli.ok("dataset", "list").splitlines()
    assert len(table) == 2, "a line break in a name must not break the table"


def test_a_table_keeps_its_columns_under_wide_characters(cli: CommandLine, tmp_path: Path) -> None:
    for name in ("plain", "龍龍龍"):
        cli.ok("dataset", "import", str(pictures(tmp_path / name, 1)))
    from rich.cells import cell_len

    lines = cli.ok("dataset", "list").splitlines()
    ends = {cell_len(line[: line.index("/") if "/" in line else line.index("FOLDER")])
            for line in lines}  # fmt: skip
    assert len(ends) == 1


def test_escape_sequences_in_names_do_not_reach_the_terminal(
    cli: CommandLine, tmp_path: Path
) -> None:
    cli.ok("dataset", "import", str(pictures(tmp_path / "x\x1b[2Jy", 1)))
    assert "\x1b" not in cli.ok("dataset", "list")


def test_captions_are_set_marked_and_taken_back(shared_cli: CommandLine, dragons: str) -> None:
    shared_cli.ok("caption", "set", dragons, "001.png", "-", stdin="a red\ndragon\n")
    items = shared_cli.data("caption", "list", dragons)["items"]
    assert items[1]["caption"] | {"at": 0} == {
        "text": "a red\ndragon", "state": "edited", "rev": 2, "source": "person",
        "by": "tester", "at": 0,
    }  # fmt: skip
    shared_cli.ok("caption", "accept", dragons, "000.png", "001.png")
    listed = shared_cli.data("caption", "list", dragons, "--state", "accepted")["items"]
    assert [item["name"] for item in listed] == ["000.png", "001.png"]
    assert shared_cli.data("caption", "undo", dragons)["changed"] == 2  # both, as one
    items = shared_cli.data("caption", "list", dragons)["items"]
    assert [item["caption"]["state"] for item in items[:2]] == ["unreviewed", "edited"]
    assert shared_cli.data("caption", "redo", dragons)["item"]["caption"]["state"] == "accepted"


def test_all_pictures_of_a_state_are_marked_at_once(shared_cli: CommandLine, dragons: str) -> None:
    before = shared_cli.data("caption", "list", dragons, "--state", "unreviewed")["items"]
    marked = shared_cli.data("caption", "flag", dragons, "--all", "unreviewed")["items"]
    assert [i["id"] for i in marked] == [i["id"] for i in before]
    assert all(item["caption"]["state"] == "flagged" for item in marked)


def test_naming_pictures_and_all_at_once_is_refused(shared_cli: CommandLine, dragons: str) -> None:
    assert shared_cli.refused("caption", "accept", dragons)[0] == Exit.FAILED


def test_a_caption_changed_meanwhile_is_a_conflict_with_the_present_text(
    shared_cli: CommandLine, dragons: str
) -> None:
    shared_cli.ok("caption", "set", dragons, "002.png", "theirs")
    code, error = shared_cli.refused("caption", "set", dragons, "002.png", "mine", "--if-rev", "1")
    assert code == Exit.CONFLICT
    assert error["data"]["current"]["text"] == "theirs"


def test_an_unknown_picture_and_dataset_are_not_found(
    shared_cli: CommandLine, dragons: str
) -> None:
    assert shared_cli.refused("caption", "set", dragons, "zzz.png", "x")[0] == Exit.NOT_FOUND
    code, error = shared_cli.refused("dataset", "show", "dragosn")
    assert code == Exit.NOT_FOUND
    assert "Did you mean dragons?" in error["message"]


def test_deleting_without_a_terminal_wants_yes(cli: CommandLine, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cats", 1)
    cli.ok("dataset", "import", str(folder))
    code, error = cli.refused("dataset", "delete", "cats")
    assert code == Exit.FAILED
    assert "--yes" in error["message"]
    assert cli.data("dataset", "delete", "cats", "--yes") == {"deleted": ["cats"]}
    assert cli.data("dataset", "list") == {"datasets": []}
    assert (folder / "000.txt").read_text() == "picture 0"


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("", 1), ("y", 0)])
def test_on_a_terminal_deleting_asks_once_and_only_yes_deletes(
    cli: CommandLine, tmp_path: Path, answer: str, left: int
) -> None:
    cli.ok("dataset", "import", str(pictures(tmp_path / "cats", 1)))
    screen, inside = pty.openpty()
    process = subprocess.Popen(
        cli.command("dataset", "delete", "cats"), env=cli.environment,
        stdin=inside, stdout=inside, stderr=inside, start_new_session=True,
    )  # fmt: skip
    os.close(inside)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(screen, 1024)
    os.write(screen, f"{answer}\n".encode())
    process.wait(timeout=60)
    os.close(screen)
    assert "Forget cats (1 picture)?" in seen.decode()
    assert process.returncode == (Exit.OK if answer == "y" else Exit.INTERRUPTED)
    assert len(cli.data("dataset", "list")["datasets"]) == left


def test_of_several_to_delete_none_is_if_one_is_unknown(cli: CommandLine, tmp_path: Path) -> None:
    cli.ok("dataset", "import", str(pictures(tmp_path / "cats", 1)))
    assert cli.refused("dataset", "delete", "cats", "dogs", "--yes")[0] == Exit.NOT_FOUND
    assert len(cli.data("dataset", "list")["datasets"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "lesson"],
        ["generate", "--prompt", "x", "--size", "12"],
        ["caption", "list"],
        ["run", "explode", "r1"],
        ["generate"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two_or_says_what_is_missing(
    shared_cli: CommandLine, arguments: list[str]
) -> None:
    code, error = shared_cli.refused(*arguments)
    assert code in (Exit.USAGE, Exit.INVALID, Exit.NOT_FOUND)
    assert error["message"]


@pytest.mark.parametrize(
    ("out", "said"), [("nowhere/a.png", "there is no folder nowhere"), ("a.jpg", "name it a.png")]
)
def test_where_a_picture_cannot_go_is_said_before_it_is_painted(
    shared_cli: CommandLine, out: str, said: str
) -> None:
    for ask in (["generate", "--prompt", "x"], ["grid", "--prompt", "x", "-x", "seed=1"]):
        code, error = shared_cli.refused(*ask, "--out", out, "--no-start")
        assert code == Exit.USAGE and said in error["message"]


def test_a_recipe_with_an_unknown_key_never_reaches_the_daemon(cli: CommandLine) -> None:
    code, error = cli.refused("train", "lesson", "--set", "network.rnk=4", "--no-start")
    assert code == Exit.INVALID
    assert "Did you mean network.rank?" in error["message"]


def test_a_recipe_is_written_once_and_never_over_another(cli: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    cli.ok("recipe", "new", "--from", "lesson", "--set", "network.rank=16", "--out", str(out))
    assert "rank = 16" in out.read_text()
    assert cli.refused("recipe", "new", "--out", str(out))[0] == Exit.CONFLICT
    assert cli.data("recipe", "check", str(out), "--pictures", "833")["steps"] == 8330


def test_a_recipe_is_made_of_answers(
    shared_cli: CommandLine, cli: CommandLine, dragons: str
) -> None:
    code, error = cli.refused("recipe", "new", "--teaches", "style")
    assert code == Exit.NOT_FOUND and "dataset import" in error["message"]
    made = shared_cli.data(
        "recipe", "new", "--teaches", "style", "--dataset", dragons, "--base", "starter",
        "--set", "save.every_epochs=7",
    )  # fmt: skip
    assert made["dataset"]["name"] == dragons and made["base"]["name"] == "starter"
    assert made["save"]["every_epochs"] == 7 and made["network"]["rank"] == 32
    assert not made["dataset"]["enable_bucket"]  # its pictures are squares


def test_a_recipe_keeps_the_shapes_of_pictures_that_squares_would_crop(
    shared_cli: CommandLine, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "panoramas")
    for path in folder.glob("*.png"):
        Image.new("RGB", (120, 40), "white").save(path)
    shared_cli.ok("dataset", "import", str(folder))
    new = ("recipe", "new", "--dataset", "panoramas", "--base", "not-here-yet")
    assert shared_cli.data(*new)["dataset"]["enable_bucket"]
    assert not shared_cli.data(*new, "--buckets", "no")["dataset"]["enable_bucket"]


def test_kohyas_files_are_imported_and_each_option_is_accounted_for(
    cli: CommandLine, tmp_path: Path
) -> None:
    config, out = tmp_path / "config.toml", tmp_path / "mine.toml"
    config.write_text('network_dim = 16\noptimizer_type = "Lion"\nface_crop_aug_range = "2,4"\n')
    said = cli("recipe", "import", str(config), "--dataset", "dragons")
    assert said.returncode == Exit.OK
    assert 'kind = "lion"' in said.stdout and 'name = "dragons"' in said.stdout
    assert "left out  face_crop_aug_range" in said.stderr and "network.rank" in said.stderr
    found = cli.data("recipe", "import", str(config), "--out", str(out))
    (crop,) = (one for one in found["options"] if one["key"] == "face_crop_aug_range")
    assert crop["verdict"] == "left out" and "faces" in crop["words"]
    assert cli.data("recipe", "check", str(out), "--pictures", "10")["steps"] == 1600
    assert cli.refused("recipe", "import", str(config), "--out", str(out))[0] == Exit.CONFLICT
    assert cli.refused("recipe", "import-kohya", str(tmp_path / "none.toml"))[0] == Exit.NOT_FOUND


def test_the_recipe_page_is_current() -> None:
    from lora_tui.commands.recipe import page

    assert Path("docs/recipe.md").read_text() == page(), "run `make docs`"


def test_a_reader_that_has_left_is_no_error(cli: CommandLine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        cli.command("recipe", "options"), env=cli.environment, stdout=writing,
        stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    assert process.stderr == ""
    assert process.returncode == 141


# ── LoRA files made from others ─────────────────────────────────────────────────────────────────


def test_loras_are_merged_and_converted_without_a_daemon(cli: CommandLine, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    path = tmp_path / "a.safetensors"
    ones = b"\x00\x00\x80\x3f"
    tensors = {
        f"{name}.lora_down.weight": Tensor("F32", (2, 4), ones * 8),
        f"{name}.lora_up.weight": Tensor("F32", (3, 2), ones * 6),
    }
    write(path, tensors, {"ss_output_name": "a"})
    out = tmp_path / "both.safetensors"
    made = cli.data("lora", "merge", f"{path}:0.5", f"<lora:{path}:1:2>", "--out", str(out))
    assert made["modules"] == [{"name": name, "rank": 3, "error": made["error"]}]
    assert made["error"] < 1e-6 and made["size"] == out.stat().st_size
    assert cli.refused("lora", "merge", str(path), "--out", str(out))[0] == Exit.CONFLICT
    small = cli.ok("lora", "resize", str(out), "--rank", "1", "--yes", "--out", str(out))
    assert "rank     1" in small and "error" in small
    folder = str(tmp_path / "peft")
    assert cli.data("lora", "convert", str(out), "--to", "peft", "--out", folder)["modules"] == 1
    assert not cli.home.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("merge", "none.safetensors", "--out", "o"), Exit.NOT_FOUND, "no file none"),
        (
            ("resize", "ink.safetensors", "--rank", "4", "--out", "o"),
            Exit.NOT_FOUND,
            "without the ending: ink",
        ),
        (("resize", "x.safetensors", "--out", "o"), Exit.FAILED, "--rank 8"),
        (("merge", "x", "--method", "exact", "--rank", "3", "--out", "o"), Exit.FAILED, "svd"),
        (("merge", "<lora:x:1:lbw=OUTD>", "--out", "o"), Exit.FAILED, "Block weights"),
        (("convert", "none.safetensors", "--to", "peft", "--out", "o"), Exit.NOT_FOUND, "no file"),
    ],
)
def test_what_cannot_be_made_is_refused_before_torch_is_there(
    cli: CommandLine, arguments: tuple[str, ...], code: Exit, words: str
) -> None:
    status, error = cli.refused("lora", *arguments)
    assert status == code and words in error["message"]


def test_a_base_is_written_as_one_file_that_is_a_base_again(
    cli: CommandLine, tmp_path: Path
) -> None:
    out = tmp_path / "starter.safetensors"
    packed = cli.data("model", "export", "starter", str(out))
    assert packed["size"] == out.stat().st_size < 12_000_000
    assert cli.data("model", "add", str(out), "--name", "one")["layout"] == "file"
    _, error = cli.refused("model", "export", "one", str(tmp_path / "two.safetensors"))
    assert "one file already" in error["message"]
    _, error = cli.refused("model", "export", "starter", str(tmp_path / "folder"))
    assert "must be called folder.safetensors" in error["message"]
