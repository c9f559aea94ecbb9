"""Nothing acknowledged is lost, and every run ends with the same bytes, whoever is killed when."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import MOMENTS, Campaign, counted


@pytest.mark.timeout(900)
async def test_a_handful_of_kills_one_in_each_kind_of_moment(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=7)
    await campaign.run(kills=len(MOMENTS))
    assert counted(campaign.tally.kills) == dict.fromkeys(MOMENTS, 1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_thirty_kills_at_least_three_in_each_kind_of_moment(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=1)
    await campaign.run(kills=30)
    counts = counted(campaign.tally.kills)
    assert sum(counts.values()) == 30
    assert all(counts[moment] >= 3 for moment in MOMENTS)
    assert {kill.victim for kill in campaign.tally.kills} == {"client", "worker", "daemon"}
