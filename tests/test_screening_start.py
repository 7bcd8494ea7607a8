"""A run loads a library where it is first used: a rank that only computes loads none that only root's end needs."""

import gc
import json
import subprocess
import threading

import pytest

import pipeline
from pipeline.config import Config, EngineConfig
from pipeline.phantom import write_archive
from pipeline.run.collector import uncollected
from pipeline.screening import ahead, spine
from pipeline.study import checkpoint
from tests.tools import environment, program

TABLES = ("h5py", "jinja2", "pandas", "pyarrow")
"""What gathering and the report are made with."""
OTHERS = ("matplotlib", "pydicom", "scipy", "sklearn", "torch", "torchvision", "transformers")
"""What a run of one study by OpenVINO never uses."""


def test_a_rank_loads_nothing_of_tables_and_charts_before_its_first_study(weights, tmp_path):
    write_archive(tmp_path / "archive", studies=1, matrix=128, slices=20)
    command = [*program("screen_lightly"), tmp_path / "archive", weights, tmp_path / "run", *TABLES, *OTHERS]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    begun, ended = json.loads(done.stdout.splitlines()[-1])
    assert begun == []
    assert ended == sorted(TABLES)
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_the_tables_libraries_are_loaded_once_in_a_thread_while_a_study_is_computed(monkeypatch):
    threads = []
    monkeypatch.setattr(ahead, "_load", lambda: threads.append(threading.current_thread()))
    told = ahead.LoadedAhead()
    for stage in ("read", "lung", "prepare"):
        told.begins(stage)
        told.tick()
    told.begins("infer")
    assert threads == []  # until the first slice is done graphs are compiled
    for stage in ("infer", "pictures", "read", "infer"):
        told.begins(stage)
        told.tick()
    for thread in threads:
        thread.join()
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_who_screens_alone_reads_each_checkpoint_once(monkeypatch, plain, weights, tmp_path):
    read = []
    whole = checkpoint.read_file
    monkeypatch.setattr(checkpoint, "read_file", lambda path: read.append(path) or whole(path))
    monkeypatch.setattr(spine, "read_weights", lambda path, _: pytest.fail(f"{path} is read again"))
    pipeline.screen(plain.archive, weights, tmp_path / "run", config=Config(engine=EngineConfig(name="openvino")))
    assert read == [weights]


def test_nothing_is_collected_while_much_is_made_and_then_it_is_as_before():
    was_on = gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled() == was_on
