"""What a cluster does to a run: parts in an array, ranks that die over a study, walltimes that end."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.run.deal import Deal
from pipeline.run.pace import Pace
from pipeline.run.read_tables import open_run
from pipeline.run.resume import last_records
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]
TABLES = ("studies.csv", "patients.csv", "exclusions.csv", "slices.parquet")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Six patients, 64 x 64 x 24."""
    from pipeline.phantom import write_archive

    folder = tmp_path_factory.mktemp("small") / "archive"
    write_archive(folder, studies=6, matrix=64, slices=24)
    return folder


@pytest.fixture(scope="module")
def whole(small, weights, drenet, tmp_path_factory):
    """The small archive screened by one rank."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = drenet("screen", small, "--weights", weights, "--out", out)
    assert done.returncode == 0, done.stdout
    return out


def _tables(run):
    return {name: (run / name).read_bytes() for name in TABLES}


@pytest.mark.long
def test_parts_that_run_side_by_side_give_the_tables_of_the_whole(small, whole, weights, drenet, tmp_path):
    screen = ("screen", small, "--weights", weights, "--out", tmp_path / "run")
    jobs = [drenet(*screen, "--part", f"{number}/3", wait=False) for number in (1, 2, 3)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0, 0]
    assert _tables(tmp_path / "run") == _tables(whole)
    assert drenet(*screen).returncode == 0
    assert _tables(tmp_path / "run") == _tables(whole)


def test_a_held_part_and_the_whole_beside_it_are_refused_naming_the_holder(small, weights, drenet, tmp_path):
    from pipeline.run.lock import hold

    screen = ("screen", small, "--weights", weights, "--out", tmp_path / "run")
    with hold(tmp_path / "run" / "parts" / "00001-of-00002"):
        for options in (("--part", "1/2"), ()):
            done = drenet(*screen, *options)
            assert (done.returncode, f"held by process {os.getpid()} on" in done.stdout) == (2, True), done.stdout


def test_a_holder_that_was_killed_is_taken_over_from(tmp_path, caplog):
    from pipeline.run.lock import hold

    subprocess.run([*program("hold_and_die"), tmp_path], env=environment(), check=False)
    caplog.set_level("INFO")
    with hold(tmp_path):
        assert "ended without letting go: taken over" in caplog.text
    assert (tmp_path / "private" / "lock").read_text() == ""


def test_a_lock_of_a_running_job_that_cannot_be_seen_from_here_is_refused(tmp_path, monkeypatch):
    from pipeline.errors import ConfigurationError
    from pipeline.run.lock import hold

    (tmp_path / "squeue").write_text("#!/bin/sh\necho RUNNING\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "run" / "private").mkdir(parents=True)
    (tmp_path / "run" / "private" / "lock").write_text("process 1 on n7, job 4711, since yesterday\n")
    with pytest.raises(ConfigurationError, match=r"job 4711.*lock across nodes"):
        hold(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_study_that_crashes_its_rank_twice_is_left_out_and_may_be_tried_again(ranks, small, whole, weights, drenet, tmp_path):
    screen = ("screen", small, "--weights", weights, "--out", tmp_path / "run")
    (tmp_path / "victim").touch()
    fault = {"fault": "one_study_crashes_its_rank", "ranks": ranks, "VICTIM": str(tmp_path / "victim")}
    codes = [drenet(*screen, **fault).returncode for _ in range(3)]
    assert [code != 0 for code in codes] == [True, True, False]
    reasons = open_run(tmp_path / "run").studies.set_index("study_key")["reason"].fillna("")
    assert reasons[reasons != ""].to_dict() == {(tmp_path / "victim").read_text(): "WORKER_LOST"}
    assert drenet(*screen, "--retry-lost").returncode == 0
    assert _tables(tmp_path / "run") == _tables(whole)


@pytest.mark.long
def test_asked_to_stop_a_rank_leaves_a_long_study_in_the_stated_time(small, whole, weights, drenet, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[run]\nabandon_after_s = 0.5\n")
    screen = ("screen", small, "--weights", weights, "--out", tmp_path / "run", "--config", config)
    begun = tmp_path / "begun"
    process = drenet(*screen, wait=False, fault="every_study_takes_long", BEGUN=str(begun))
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert drenet(*screen).returncode == 0
    assert _tables(tmp_path / "run") == _tables(whole)


@pytest.mark.long
def test_no_study_is_begun_that_cannot_end_before_the_walltime(small, whole, weights, drenet, tmp_path):
    screen = ("screen", small, "--weights", weights, "--out", tmp_path / "run")
    ends = str(int(time.time()) + 3600)
    done = drenet(*screen, fault="every_study_takes_a_week_by_its_own_account", SLURM_JOB_END_TIME=ends)
    assert (done.returncode, "before the walltime" in done.stdout) == (75, True), done.stdout
    n_done = sum(place.status.startswith("OK") for place in last_records(tmp_path / "run").values())
    assert 0 < n_done < 6
    soon = drenet(*screen, SLURM_JOB_END_TIME=ends)
    assert (soon.returncode, "ask for a longer one" in soon.stdout) == (2, True), soon.stdout
    assert drenet(*screen).returncode == 0
    assert _tables(tmp_path / "run") == _tables(whole)


def test_the_pace_is_that_of_nearly_all_studies_and_grows_with_cost():
    pace = Pace(ends=1000.0, clock=lambda: 900.0)
    assert pace.costliest() == float("inf")
    for _ in range(99):
        pace.measured(10.0, 8.0)
    pace.measured(10.0, 500.0)
    assert pace.study_s == 8.0
    assert pace.costliest() == pytest.approx(100.0)
    assert pace.costliest(n_before=1) == pytest.approx(50.0)
    assert pace.costliest(n_before=20) == 0.0


def test_a_rank_is_given_a_study_when_one_fits_though_two_do_not(tmp_path):
    from pipeline.config import RunConfig
    from pipeline.records import Study
    from pipeline.run.journal import LastRecord
    from pipeline.run.manifest import Heading, read_manifest, write_manifest
    from pipeline.run.open_studies import Share, StudySource

    write_manifest(tmp_path, Heading("/a", "k", "s", 0), [Study(f"s{n}", "p", "u", "i") for n in range(9)])
    done = {"s0": LastRecord(tmp_path, 0, "study", "s0", "OK", input=read_manifest(tmp_path).entries[0].digest, seconds=45.0)}
    pace = Pace(ends=105.0, clock=lambda: 0.0)
    source = StudySource(read_manifest(tmp_path), done, 1, RunConfig(), Share(pace=pace))
    assert source.give(0)
    assert source.give(0) == []
    assert not source.out_of_time


def test_tasks_too_costly_for_the_time_left_are_set_aside_and_the_cheap_ones_done():
    deal = Deal([(n, float(n)) for n in range(6)])
    given = [deal.give(0, costliest=3.0)]
    for task in given[0]:
        deal.done(0, task)
    assert (given, deal.n_aside, deal.n_open, deal.finished) == ([[3, 2]], 2, 2, False)


@pytest.mark.parametrize(
    ("deadly", "n_memory_kills", "blamed"),
    [("SIGKILL", 1, True), ("SIGKILL", 0, False), ("SIGBUS", 0, True), ("SIGTERM", 0, False)],
)
def test_a_study_is_blamed_for_a_crash_or_want_of_memory_but_not_for_a_kill(deadly, n_memory_kills, blamed, tmp_path):
    command = [*program("die_over_a_study"), tmp_path / "counts", tmp_path / "j", deadly, str(n_memory_kills)]
    done = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "j").exists()) == (76, blamed)
    assert f"rank ended by {deadly}" in done.stderr
    assert ("want of memory" in done.stderr) == bool(n_memory_kills)


def test_a_watcher_whose_rank_ends_well_or_with_an_error_writes_nothing(tmp_path):
    for wanted in (0, 75):
        command = [*program("end_over_a_study"), tmp_path / "j", str(wanted)]
        done = subprocess.run(command, env=environment(), check=False)
        assert (done.returncode, (tmp_path / "j").exists()) == (wanted, False)
