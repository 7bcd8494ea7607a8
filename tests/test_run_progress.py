"""The line that says how far a run is never says what is no number."""

import logging

from pipeline.run.progress import Progress


def test_a_run_of_which_no_study_has_ended_says_nothing_of_the_time_left(caplog):
    caplog.set_level(logging.INFO)
    Progress(3, 5).close()
    assert caplog.messages == ["2 of 5 studies, 0.00 studies/s, 0 failed so far"]


def test_the_time_left_follows_from_the_rate_so_far(caplog, monkeypatch):
    clock = iter([100.0, 104.0, 104.0, 104.0])
    monkeypatch.setattr("pipeline.run.progress.time.monotonic", lambda: next(clock, 104.0))
    caplog.set_level(logging.INFO)
    progress = Progress(3, 5, every_s=30.0)
    progress.step(failed=True)
    progress.close()
    assert caplog.messages == ["3 of 5 studies, 0.25 studies/s, 8 s left, 1 failed so far"]
