"""A disk that is full while results.h5 is written never crashes the process, and costs no table."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.run.hdf5_sink import Sink

ROOT = Path(__file__).parents[1]


def _written(path):
    """Growing, compressed columns, as in a run; the numbers are noise, so that chunks are large."""
    draw = np.random.default_rng(0)
    with Sink(path) as sink, h5py.File(sink, "w", libver="v110") as file:
        columns = [file.create_dataset(f"g/{n}", (0,), "f8", maxshape=(None,), chunks=(512,), compression=1) for n in range(5)]
        for _ in range(4):
            for column in columns:
                column.resize(len(column) + 700, axis=0)
                column[-700:] = draw.random(700)
            sink.check()
        file.attrs["notice"] = "whole"


def test_what_is_written_through_it_is_what_hdf5_would_have_written(tmp_path):
    _written(tmp_path / "a.h5")
    expected = np.random.default_rng(0).random((4, 5, 700))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["notice"] == "whole"
        assert all((file[f"g/{n}"][:] == expected[:, n].ravel()).all() for n in range(5))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_whichever_write_fails_is_said_and_hdf5_closes_in_peace(number, monkeypatch, tmp_path):
    write, calls = os.pwrite, []

    def failing(handle, data, place):
        calls.append(place)
        if len(calls) > fails_from:
            raise OSError(number, os.strerror(number))
        return write(handle, data[: max(1, len(data) // 2)], place)  # and writes are short

    fails_from = 10**9
    monkeypatch.setattr(os, "pwrite", failing)
    _written(tmp_path / "whole.h5")
    n_writes = len(calls)
    assert n_writes > 50
    for fails_from in range(0, n_writes, 7):  # noqa: B007  read by `failing`
        calls.clear()
        with pytest.raises(OSError, match=os.strerror(number)):
            _written(tmp_path / "a.h5")


def test_whatever_room_is_left_the_tables_of_before_stay_and_nothing_crashes(small_disk):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    program = [sys.executable, str(ROOT / "tests" / "fill_disk.py"), str(small_disk)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    ends = [line.partition(" ")[2] for line in done.stdout.splitlines()]
    assert set(ends) == {"exit 74, whole", "exit 0, whole"}, done.stdout
    assert (ends[0], ends[-1]) == ("exit 74, whole", "exit 0, whole"), done.stdout


def test_a_run_on_a_full_disk_ends_with_74_and_goes_on_once_there_is_room(small_disk, weights, drenet, tmp_path):
    from pipeline.phantom import write_archive

    def room(size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small_disk], check=True)

    write_archive(tmp_path / "archive", studies=1, matrix=128, slices=26)
    (tmp_path / "c.toml").write_text("[run]\nimages_top = 0\nimages_flag_at = 2.0\n")
    screen = ("screen", tmp_path / "archive", "--weights", weights, "--out", small_disk / "run")
    screen = (*screen, "--config", tmp_path / "c.toml")
    room("size=64k")
    try:
        for size in (64, 104, 144):  # room for ever more of the files
            room(f"remount,size={size}k")
            done = drenet(*screen)
            assert (done.returncode, "no space left" in done.stdout) == (74, True), done.stdout
        room("remount,size=8m")
        done = drenet(*screen)
        assert done.returncode == 0, done.stdout
    finally:
        subprocess.run(["umount", small_disk], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A folder in which a small file system may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("no tmpfs can be mounted here: run as root, outside a container without CAP_SYS_ADMIN")
    subprocess.run(["umount", folder], check=True)
    return folder
