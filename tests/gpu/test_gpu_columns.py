"""ZipLoRA's coefficients learnt on a GPU: the CPU's own tests on the device's base."""

from __future__ import annotations

import pytest

from tests.engine.test_columns import (
    files,
    test_the_penalty_is_heard,
    test_the_worker_does_it_order_by_order,
    test_what_is_learnt_is_better_and_is_in_the_file,
)

pytestmark = pytest.mark.gpu
