"""A few random faults over runs of 3,000 files: each ends with a documented code, and the next start completes it."""

import pytest

from tests.torture_here import prepare, torment


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_that_are_struck_at_random_lose_nothing_and_never_hang(seed, tmp_path):
    tally = torment(prepare(tmp_path, screens=False), 5, seed)
    assert tally.sound, str(tally)
    assert sum(tally.faults.values()) == 5
