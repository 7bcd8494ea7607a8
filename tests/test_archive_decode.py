"""The decode child may crash, hang, be killed, grow or lie; its rank lives on and says what happened."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.archive import child as supervised
from pipeline.archive.decode import Decoder
from pipeline.errors import RankDied, StudyError
from pipeline.records import SliceSource
from tests.tools import PROGRAMS, environment, program

ROOT = Path(__file__).parents[1]
J2K = "1.2.840.10008.1.2.4.90"
SOURCE = SliceSource("x", 0.0, rows=4, columns=4, syntax=J2K, signed=False)


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """A decoder whose child keeps the real protocol and does what the frame orders."""
    script = Path(shutil.copy(PROGRAMS / "obedient_decoder.py", tmp_path))
    (tmp_path / "real.py").symlink_to(supervised.SCRIPT)
    monkeypatch.setattr(supervised, "SCRIPT", script)
    with Decoder(cpu_s=1.0) as decoder:
        yield decoder


def frame(order):
    size = (4).to_bytes(4, "big")
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + size + size + bytes(24) + b"\0\1\x0f" + order.encode() + b" end"


def reason_of(decoder, order):
    with pytest.raises(StudyError) as caught:
        decoder.decode(frame(order), SOURCE)
    return caught.value.reason


FATES = {
    "crash": "DECODE_CRASH",
    "exit": "DECODE_CRASH",
    "killed": "DECODE_CRASH",
    "spin": "DECODE_TIMEOUT",
    "grow": "OUT_OF_MEMORY",
    "panic": "DECODE_ERROR",
    "colour": "DECODE_ERROR",
    "other": "DECODE_ERROR",
    "huge": "DECODE_CRASH",
    "strange": "DECODE_CRASH",
    "garbled": "DECODE_CRASH",
    "short": "DECODE_CRASH",
}


@pytest.mark.parametrize(("order", "reason"), FATES.items(), ids=FATES)
def test_whatever_a_decoder_does_is_one_reason_and_the_next_frame_is_decoded(order, reason, decoder):
    assert reason_of(decoder, order) == reason
    assert decoder.decode(frame("fine"), SOURCE).values[3, 3] == 15


def test_what_a_library_prints_does_not_pass_for_pixels(decoder):
    assert decoder.decode(frame("noise"), SOURCE).values.tolist() == np.arange(16).reshape(4, 4).tolist()


def test_a_child_killed_from_outside_is_started_again_and_the_frame_decoded(decoder):
    assert decoder.decode(frame("once"), SOURCE).values[3, 3] == 15


def test_a_child_killed_between_frames_is_started_again(decoder):
    decoder.decode(frame("fine"), SOURCE)
    os.kill(decoder.child.pid, signal.SIGKILL)
    assert decoder.decode(frame("fine"), SOURCE).values[3, 3] == 15


def test_a_child_killed_while_it_works_is_started_again(decoder, monkeypatch):
    monkeypatch.setattr(supervised, "CHECK_EVERY_S", 0.05)
    decoder.decode(frame("fine"), SOURCE)
    killer = threading.Timer(0.3, os.kill, (decoder.child.pid, signal.SIGKILL))
    killer.start()
    assert reason_of(decoder, "spin") == "DECODE_TIMEOUT"
    killer.join()


def test_what_tick_raises_while_a_frame_is_decoded_passes_and_the_next_answer_is_its_own(decoder, monkeypatch):
    monkeypatch.setattr(supervised, "CHECK_EVERY_S", 0.05)
    news = [RankDied("root died")]

    def tick():
        if news:
            raise news.pop()

    with Decoder(cpu_s=60.0, tick=tick) as listening:
        with pytest.raises(RankDied):
            listening.decode(frame("sleep"), SOURCE)
        assert listening.decode(frame("fine"), SOURCE).values[3, 3] == 15


def test_sleeping_costs_no_cpu_and_ends_at_the_wall_clock(decoder, monkeypatch):
    monkeypatch.setattr(supervised, "WALL_FACTOR", 1.5)
    assert reason_of(decoder, "sleep") == "DECODE_TIMEOUT"


def test_a_stopped_child_does_not_hang_its_rank(decoder, monkeypatch):
    decoder.decode(frame("fine"), SOURCE)  # with the usual limit: the child's start may take long
    monkeypatch.setattr(supervised, "WALL_FACTOR", 1.5)
    os.kill(decoder.child.pid, signal.SIGSTOP)
    with pytest.raises(StudyError, match="DECODE_TIMEOUT"):
        decoder.decode(frame("fine") + bytes(1 << 20), SOURCE)


def test_dead_children_leave_no_zombie_and_no_open_pipe(decoder):
    decoder.decode(frame("fine"), SOURCE)
    pid, n_open = decoder.child.pid, len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        reason_of(decoder, "crash")
        decoder.decode(frame("fine"), SOURCE)
    assert not Path(f"/proc/{pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open


def test_the_child_starts_without_the_launchers_variables(decoder, monkeypatch):
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "MPI_LOCALRANKID", "HYDI_CONTROL_FD"):
        monkeypatch.setenv(name, "1")
    decoder.decode(frame("fine"), SOURCE)
    environment = Path(f"/proc/{decoder.child.pid}/environ").read_bytes()
    assert not any(name in environment for name in (b"PMI", b"OMPI", b"SLURM", b"MPI_", b"HYDI"))


def test_a_killed_rank_takes_its_child_along(tmp_path):
    with subprocess.Popen(program("decode_until_killed"), env=environment(), stdout=subprocess.PIPE, text=True) as rank:
        pid = int(rank.stdout.readline())
        rank.kill()
        rank.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("u1", 0, 255), ("u2", 0, 65535), ("i2", -32768, 32767), ("i8", -70000, 70000)]
)
def test_every_kind_of_number_comes_through_the_shared_memory_as_it_is(decoder, kind, low, high):
    assert decoder.decode(frame("fine"), SOURCE).values.dtype == np.int32
    answer = decoder.child.ask(frame(f"spread {kind} {low} {high}"), J2K)
    assert answer.words.tolist() == [[low, high]]


def test_a_picture_that_was_read_is_not_changed_by_what_the_child_writes_later(decoder):
    first = decoder.child.ask(frame("spread u2 1 2"), J2K).words
    decoder.child.ask(frame("spread u2 3 4"), J2K)
    assert first.tolist() == [[1, 2]]


def test_a_frame_that_no_memory_was_set_aside_for_is_refused_and_starts_no_child(decoder, monkeypatch):
    monkeypatch.setattr(supervised, "SHARED_BYTES", 64)
    with pytest.raises(StudyError, match="DECODE_ERROR"):
        decoder.child.ask(bytes(65), J2K)
    assert decoder.child.pid is None


def test_the_memory_of_a_rare_large_picture_is_given_back(decoder, monkeypatch):
    monkeypatch.setattr(supervised, "KEPT_BYTES", 1 << 20)
    decoder.child.ask(frame("large"), J2K)
    assert shared_kb(decoder.child.pid) < 1024


def shared_kb(pid):
    """What a child holds in the memory that it shares, kB."""
    lines = iter(Path(f"/proc/{pid}/smaps").read_text().splitlines())
    for line in lines:
        if "memfd:frames" in line:
            return int(next(row for row in lines if row.startswith("Rss:")).split()[1])
    raise AssertionError("the child shares no memory")


def test_what_a_decoder_says_stays_out_of_the_error(decoder):
    with pytest.raises(StudyError) as caught:
        decoder.decode(frame("panic"), SOURCE)
    assert str(caught.value) == "DECODE_ERROR"


def test_the_codestreams_own_size_is_checked_before_a_child_is_started(decoder):
    huge = (60_000).to_bytes(4, "big")
    with pytest.raises(StudyError, match="DECOMPRESSION_BOMB"):
        decoder.decode(b"\xff\x4f\xff\x51\x00\x29\x00\x00" + huge + huge + bytes(50), SOURCE)
    assert decoder.child.pid is None
