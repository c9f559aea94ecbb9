"""Who else is attached and what each GPU is at, as the status line and `status` say it."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.commands import doctor, status
from lora_tui.core.known import Known
from lora_tui.core.run_list import standing
from lora_tui.core.summary import Said, more, others, progress
from shared.wire import ClientInfo, DeviceUse, Job, Looking, Status, Worker, WorkerChanged
from tests.tui.standin import device, run_of


def _client(session: str, name: str, host: str = "box") -> ClientInfo:
    return ClientInfo(session=session, name=name, host=host, terminal="", since=0.0)


def test_a_name_that_says_where_from_is_not_given_a_host_as_well() -> None:
    clients = [_client("a", "me"), _client("b", "ana@192.0.2.7"), _client("c", "Bob"),
               _client("d", "script", "")]  # fmt: skip
    assert others(clients, "a") == "ana@192.0.2.7, Bob@box, script"


def test_of_equal_names_one_is_said_and_how_often() -> None:
    clients = [_client(session, "root@vm") for session in "abc"] + [_client("d", "Bob")]
    assert others(clients, "a") == "root@vm ×2, Bob@box"


def test_status_says_each_name_once() -> None:
    at = Looking(dataset="d", item="i", name="1.png")
    clients = [_client(session, "root@vm") for session in "ab"]
    clients += [replace(_client("d", "Bob"), terminal="pts/1", looking=at)]
    found = Status(
        pid=1, endpoint="", home="", version="1", versions={}, incarnation="", head_seq=0,
        started=0.0, clients=clients, worker=Worker(state="idle"), devices=[], jobs=[], runs=[],
        warnings=[],
    )  # fmt: skip
    told = [line for line in status.told(found) if " from box" in line]
    assert [line.removeprefix("attached").strip() for line in told] == [
        "root@vm ×2 from box", "Bob from box pts/1, at 1.png",
    ]  # fmt: skip


# ── several GPUs ────────────────────────────────────────────────────────────────────────────────

MIG = "MIG-0c3f77a1"


def _text(said: Said) -> str:
    return "".join(text for text, _ in said)


def _use(gpu: str) -> DeviceUse:
    return replace(device(), device=f"GPU-{gpu}", kind="cuda", name="H100", gpu=gpu)


def _known(*workers: Worker) -> Known:
    known = Known()
    for worker in workers:
        known.take(WorkerChanged(worker=worker))
        known.take(_use(worker.gpu))
    return known


def test_the_status_line_says_what_each_of_several_gpus_is_at() -> None:
    two = [Worker(state="training", gpu="0", run="r0003"), Worker(state="absent", gpu="1")]
    assert _text(_known(*two).engine()) == "GPU 0 r0003 · 1 more free · 10.0/32.0 GiB"
    both = [Worker(state="training", gpu=gpu, run="r0003") for gpu in "01"]
    painting = Worker(state="painting", gpu=MIG)
    said = _text(_known(*both, painting).engine())
    assert said == "GPU 0,1 r0003 · MIG-0c3f… painting · 15.0/48.0 GiB"
    many = [Worker(state="training", gpu=str(n), run=f"r{n:04}") for n in range(7)]
    said = _text(_known(*many, Worker(state="idle", gpu="7")).engine())
    assert said == "7 of 8 GPUs at work · 40.0/128.0 GiB"
    idle = [replace(one, state="idle", run="") for one in both]
    assert _text(_known(*idle).engine()).startswith("2 GPUs free · ")
    alone = Known()
    alone.take(WorkerChanged(worker=Worker(state="training", run="r0003")))
    alone.take(device())
    assert _text(alone.engine()) == "no GPU · RAM 5.0/16.0 GiB · 88 % busy"


def test_a_run_says_its_gpus_and_its_own_memory_is_shown() -> None:
    run = run_of(3, gpus=["1"])
    known = _known(Worker(state="idle", gpu="0"), Worker(state="training", gpu="1", run="r0003"))
    shown = known.device(run)
    assert shown is not None and shown.gpu == "1"
    assert known.device(run_of(4)) == known.devices["GPU-0"]
    assert standing(run, [run])[0] == "GPU 1"
    assert standing(replace(run, state="paused", gpus=["0"]), [run])[0] == "paused GPU 0"
    assert standing(replace(run, gpus=list("0123")), [run])[0] == "GPUs 0–3"
    assert "· GPU 1" in _text(progress(run, None))
    assert more([run]) == [] and _text(more([run, run_of(4), run_of(5, state="queued")])) == " · +1"


def test_status_and_doctor_have_a_line_for_each_gpu() -> None:
    workers = [
        Worker(state="training", gpu="0", run="r0003"), Worker(state="absent", gpu="1"),
        Worker(state="failed", gpu="2", message="It is on fire."),
    ]  # fmt: skip
    found = Status(
        pid=1, endpoint="", home="", version=doctor.__version__, versions={}, incarnation="",
        head_seq=0, started=0.0, clients=[], worker=workers[0], devices=[_use("0"), _use("1")],
        jobs=[Job(id="j1", kind="grid", title="a grid", state="failed", done=0, total=4,
                  message="The disk is full.")],
        runs=[run_of(3, gpus=["0"])], warnings=[], workers=workers,
    )  # fmt: skip
    told = "\n".join(status.told(found))
    assert "a grid: failed, 0/4. The disk is full." in told
    assert "GPU 0   training r0003, H100, VRAM 5.0 of 16.0 GiB" in told
    assert "GPU 1   free, H100" in told and "It is on fire." in told
    assert "on GPU 0, step 120" in told
    assert doctor.answering(found).found == "It is on fire."
    (check,) = doctor.used(found)
    assert check.found == "the daemon has GPU 0 training r0003, GPU 1 free, GPU 2 failed"
    assert not list(doctor.used(replace(found, workers=workers[:1])))
