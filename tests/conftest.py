"""For all tests."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish() -> None:
    """Python looks for cycles among all objects again and again, and a process that has made a
    hundred apps has very many: a fifth of the tests' time. What is there by now stays anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cuda:0", choices=("cuda:0", "cpu"),
        help="what the tests marked gpu run on; cpu rehearses them without a GPU",
    )  # fmt: skip
