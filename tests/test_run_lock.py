"""A folder that parts of a run hold briefly, one after the other."""

import fcntl
import threading

import pytest

from pipeline.errors import ConfigurationError
from pipeline.run import lock
from pipeline.run.lock import hold, hold_briefly
from pipeline.run.paths import LOCK, PRIVATE


def test_a_part_waits_for_one_that_has_not_written_its_name_yet(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    with (tmp_path / PRIVATE / LOCK).open("a+") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        threading.Timer(0.5, lambda: fcntl.flock(taken, fcntl.LOCK_UN)).start()
        with hold_briefly(tmp_path):
            pass


def test_a_part_is_refused_by_a_job_that_holds_the_folder_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "NAMELESS_S", 0.3)
    with hold(tmp_path), pytest.raises(ConfigurationError, match="another"), hold_briefly(tmp_path):
        pass
