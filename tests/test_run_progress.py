"""The line that says how far a run is never says what is no number."""

import contextlib
import logging
import os
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline.run.progress import Progress

ROOT = Path(__file__).parents[1]


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


def seen_at_a_terminal(command, environment):
    """(exit code, what a terminal of 90 columns shows) of a program."""
    here, there = os.openpty()
    termios.tcsetwinsize(there, (40, 90))
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=os.environ | environment)
    os.close(there)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed with the program
        while part := os.read(here, 65536):
            shown += part
    os.close(here)
    return process.wait(timeout=60), shown.decode()


@pytest.mark.long
def test_a_terminal_shows_the_bar_of_several_ranks_too_without_colours_unless_quiet(plain, weights, tmp_path):
    screen = [str(part) for part in (*plain.screen, "--weights", weights, "--out", tmp_path / "run", "--ranks", 2)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for more, is_shown in ((), True), (("--quiet",), False):  # the second finds all of it done
        code, shown = seen_at_a_terminal([sys.executable, "-m", "pipeline", *screen, *more], environment)
        assert code == 0, shown
        assert ("| 4/4 [" in shown) == is_shown, shown
        assert (" INFO " in shown) == is_shown
        assert "4 studies of " in shown
        assert re.search(r"\x1b\[[\d;]*m", shown) is None
