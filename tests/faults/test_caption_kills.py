"""No acknowledged change of a caption is lost or made twice, whenever the daemon is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.caption_kills import Campaign


@pytest.mark.timeout(600)
async def test_log_database_and_files_agree_after_each_of_a_handful_of_kills(
    tmp_path: Path,
) -> None:
    campaign = Campaign(tmp_path, seed=3)
    await campaign.run(kills=2)
    assert len(campaign.tally.kills) == 2
    assert campaign.tally.acts > 10
