"""Data-parallel training of one run by several processes, through torch.distributed.

The worker leads (rank 0) and begins the others (``peer``). Before each step it gives them the step
and the LoRA's vector, and after it is given the sum of their gradients; the optimiser, its state,
the schedule, the files and all that is told are the leader's alone. So a resume state says nothing
of the others, and they wait, without work, while the leader pauses, saves or paints. What goes
between them is as small as the LoRA, so it goes through gloo, between CPUs, on every device.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from lora_daemon.pipe import Train
from shared.errors import Code, LoraError

PEER_LOST = 72  # exit status of a leader that has lost a peer: the run goes on from its last state
PATIENCE = timedelta(days=365)  # a pause may last; a peer that dies is noticed otherwise
OVER = -1  # the step after the last
BY_ENVIRONMENT = "env://"  # torchrun's: MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE
LEAVE_WITHIN = 5.0  # seconds a peer has to end


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer is told on its stdin: the run, and its place among those that train it."""

    order: Train
    rank: int
    world: int
    meeting: str  # where they find each other: torch.distributed's ``init_method``


class Together:
    """This process among the ``world`` of those that train a run.

    A step has ``parts``, the recipe's ``training.num_processes``; this process does those in
    ``own``, all of them where it is alone.
    """

    def __init__(self, parts: int = 1, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self.own = range(rank, parts, world)

    def begin(self, step: int, vector: Tensor) -> int:
        """The step to do now, counted from 0, or OVER. The leader says it; ``vector``, float32
        (n,), becomes the leader's."""
        if self.world == 1:
            return step
        number = torch.tensor(step)
        shared = vector if vector.device.type == "cpu" else vector.cpu()
        with self._heard():
            dist.broadcast(number, 0)
            dist.broadcast(shared, 0)
        if self.rank and shared is not vector:
            vector.copy_(shared)
        return int(number)

    def add_up(self, *tensors: Tensor) -> None:
        """The leader's tensors, float32, become the sums over all processes, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            shared = tensor if tensor.device.type == "cpu" else tensor.cpu()
            with self._heard():
                dist.reduce(shared, 0)
            if shared is not tensor and not self.rank:
                tensor.copy_(shared)

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Ends the process if another one is gone."""
        try:
            yield
        except RuntimeError as error:
            _end(f"Process {self.rank} of {self.world} lost the others: {error}")


def world_of(parts: int, device: torch.device, devices: Sequence[str] = ()) -> int:
    """How many processes train at once here: one for each of ``devices``, if the run was given
    some; else one a GPU, on a CPU as many as the recipe says; and never more than
    ``LORA_TUI_PROCESSES``; under torchrun as many as it began.

    Raises LoraError(INVALID_RECIPE): it began more than there are parts in a step.
    """
    if _by_torchrun():
        world = int(os.environ["WORLD_SIZE"])
        if world > parts:
            raise LoraError(
                Code.INVALID_RECIPE,
                f"torchrun began {world} processes, and the run's training.num_processes is "
                f"{parts}: begin {parts}, or queue a run for {world}.",
            )
        return world
    most = torch.cuda.device_count() if device.type == "cuda" else parts
    most = len(devices) or most
    asked = os.environ.get("LORA_TUI_PROCESSES", "")
    if asked.isdecimal() and int(asked):
        most = min(most, int(asked))
    return max(1, min(parts, most))


@contextlib.contextmanager
def led(order: Train, parts: int, device: torch.device) -> Iterator[Together]:
    """Lead the processes that train a run, for as long as the context lasts."""
    world = world_of(parts, device, order.devices)
    if world == 1:
        yield Together(parts)
        return
    if _by_torchrun():
        with joined(parts, 0, world, BY_ENVIRONMENT) as together:
            yield together
        return
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="lora-tui-") as folder:
        meeting = f"file://{folder}/meeting"
        peers = [
            _begin(Place(order=order, rank=rank, world=world, meeting=meeting))
            for rank in range(1, world)
        ]
        watchers = [
            threading.Thread(
                target=_watch, args=(peer, rank, over), name=f"peer {rank}", daemon=True
            )
            for rank, peer in enumerate(peers, 1)
        ]
        for watcher in watchers:
            watcher.start()

        def release() -> None:
            over.set()
            for peer in peers:
                assert peer.stdin is not None
                peer.stdin.close()

        try:
            with joined(parts, 0, world, meeting) as together:
                try:
                    yield together
                finally:
                    release()  # before the connection goes, which they would take for a fault
        finally:
            release()
            for peer, watcher in zip(peers, watchers, strict=True):
                watcher.join(LEAVE_WITHIN)
                peer.kill()  # nothing, where it has ended


@contextlib.contextmanager
def joined(parts: int, rank: int, world: int, meeting: str) -> Iterator[Together]:
    """Meet the other processes. Waits until all are there."""
    if meeting != BY_ENVIRONMENT:  # all on this machine: nothing listens to others
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world, timeout=PATIENCE
    )
    try:
        yield Together(parts, rank, world)
    finally:
        dist.destroy_process_group()


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _begin(place: Place) -> subprocess.Popen[bytes]:
    """Begin a peer. It ends when its stdin closes, as it does when the leader dies."""
    devices = place.order.devices
    own = {"CUDA_VISIBLE_DEVICES": devices[place.rank]} if devices else {}
    threads = str(max(1, torch.get_num_threads() // place.world))
    peer = subprocess.Popen(
        [sys.executable, "-m", "lora_daemon.engine.peer"],
        stdin=subprocess.PIPE,
        env={"LORA_TUI_THREADS": threads, **os.environ, **own},
    )
    assert peer.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end is noticed by its watcher
        peer.stdin.write(msgspec.json.encode(place) + b"\n")
        peer.stdin.flush()
    return peer


def _watch(peer: subprocess.Popen[bytes], rank: int, over: threading.Event) -> None:
    status = peer.wait()
    if over.is_set() or status == 0:
        return
    how = f"exit status {status}"
    if status < 0:
        how = f"killed by {signal.Signals(-status).name}"
    _end(f"Process {rank} of those that train together ended: {how}")


def _end(why: str) -> None:
    """End this process: the steps since the last state are lost, and a new one takes it up."""
    print(f"{why}.", file=sys.stderr, flush=True)
    os._exit(PEER_LOST)
