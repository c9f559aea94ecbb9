"""Forks workers with torch already imported: ``python -m tests.engine.nursery FD``, for tests."""

from __future__ import annotations

import os
import signal
import socket
import sys

from lora_daemon.engine import worker


def main() -> None:
    asked = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    while True:
        threads, descriptors, _, _ = socket.recv_fds(asked, 32, 1)
        if not threads:
            return
        pid = os.fork()
        if not pid:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ["LORA_TUI_THREADS"] = threads.decode()
            worker.main(["--fd", str(descriptors[0])])
        os.close(descriptors[0])
        asked.send(str(pid).encode())


if __name__ == "__main__":
    main()
