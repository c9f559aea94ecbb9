"""For all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Python looks for cycles among all objects again and again, and a process that has made a
    hundred apps has very many: a fifth of the tests' time. What is there by now stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
