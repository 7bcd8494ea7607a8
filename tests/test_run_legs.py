"""A chain of jobs in which nothing is finished any more stops and says so, instead of being queued again and again."""

import signal
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.run.journal import LastRecord
from pipeline.run.legs import end_leg


@pytest.fixture
def leg(tmp_path):
    """End one leg of a run: leg(lasted_s, moved=..., done=...)."""
    (tmp_path / "private").mkdir()

    def end(lasted_s, *, n_done=1, moved=False, enough_s=60.0):
        path = tmp_path / "journal" / "0001" / "rank-00000.jsonl"
        done = {f"s{n}": LastRecord(path, 0, "study", f"s{n}", "OK", seconds=100.0) for n in range(n_done)}
        end_leg(tmp_path, done, lasted_s, enough_s=enough_s, moved=moved)

    return end


def test_two_long_legs_in_a_row_without_a_study_stop_the_chain_and_a_start_by_hand_goes_on(leg):
    leg(101.0)
    with pytest.raises(PipelineError, match="two legs in a row finished no study") as stopped:
        leg(101.0)
    assert stopped.value.exit_code == 1  # the job's script takes that for the end
    leg(101.0)


def test_a_leg_that_finished_a_study_begins_the_count_anew(leg):
    leg(101.0)
    leg(101.0, moved=True)
    leg(101.0, n_done=2)


def test_what_was_finished_in_between_by_a_leg_that_died_counts_too(leg):
    leg(101.0)
    leg(101.0, n_done=2)
    with pytest.raises(PipelineError):
        leg(101.0, n_done=2)


def test_a_leg_shorter_than_the_slowest_study_or_than_it_takes_to_stop_says_nothing(leg):
    for _ in range(5):
        leg(99.0)
        leg(59.0, n_done=0)
        leg(150.0, enough_s=160.0)


@pytest.mark.long
def test_a_run_whose_studies_never_end_exits_75_once_and_then_1(archive, weights, drenet, tmp_path):
    (tmp_path / "c.toml").write_text("[run]\nabandon_after_s = 0.2\n")
    screen = ("screen", archive, "--weights", weights, "--out", tmp_path / "run", "--config", tmp_path / "c.toml")
    codes = []
    for number in range(3):
        begun = tmp_path / f"begun-{number}"
        process = drenet(*screen, fault="every_study_takes_long", wait=False, BEGUN=str(begun))
        while process.poll() is None and not begun.exists():
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(timeout=60))
    assert codes == [75, 1, 75]
