"""However a run ends, its exit code is the README's, it says how to go on, and no process is left."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools import PROGRAMS, environment

ROOT = Path(__file__).parents[1]
ENDING = [sys.executable, str(ROOT / "tests" / "ending.py")]
HANGS_S = 30


@pytest.fixture
def ending(tmp_path):
    """Start one way to end; whatever of it is left afterwards is killed."""
    started = []

    def start(way, *options, **popen):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ENDING": str(tmp_path)}
        process = subprocess.Popen([*ENDING, way, str(tmp_path), *options], env=environment, text=True, **popen)
        started.append(process)
        return process

    yield start
    for pid in _family(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in started:
        process.wait(timeout=HANGS_S)


def _family(folder):
    """Living processes that were started with this test's mark in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"ENDING={folder}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def _until(true):
    ends = time.monotonic() + HANGS_S
    while not (seen := true()):
        assert time.monotonic() < ends, "it hangs"
        time.sleep(0.02)
    return seen


def _all_begun(folder, n_ranks):
    return _until(lambda: len(list(folder.glob("begun-*"))) == n_ranks)


def _nobody_left(folder):
    return _until(lambda: not _family(folder))


BY_ITSELF = [
    ("done", 0),
    ("wrong request", 2),
    ("storage", 74),
    ("drained", 75),
    ("device", 1),
    ("bug", 1),
    ("rank died", 76),
    ("killed", 76),
    ("crashed", 76),
    ("hung up", 76),
    ("exits with a code of its own", 76),
]


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize(("way", "code"), BY_ITSELF)
def test_every_way_to_end_has_the_exit_code_of_the_readme(way, code, n_ranks, ending, tmp_path):
    process = ending(way, "--ranks", str(n_ranks), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(timeout=HANGS_S) == code
    _nobody_left(tmp_path)


def test_a_rank_killed_together_with_its_watcher_is_a_dead_rank_too(ending, tmp_path):
    process = ending("killed with its watcher", "--ranks", "2", stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert process.wait(timeout=HANGS_S) == 76
    _nobody_left(tmp_path)


@pytest.mark.parametrize("way", ["waits", "stands in C", "listens"])
@pytest.mark.parametrize(("n_ranks", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_asked_to_stop_a_run_ends_with_75_whatever_its_ranks_are_doing(n_ranks, number, way, ending, tmp_path):
    process = ending(way, "--ranks", str(n_ranks), stderr=subprocess.PIPE)
    _all_begun(tmp_path, n_ranks)
    process.send_signal(number)
    _, said = process.communicate(timeout=HANGS_S)
    assert process.returncode == 75
    assert ("start the same command again to go on" in said) == (way != "waits"), said
    _nobody_left(tmp_path)


def test_asked_to_stop_while_ranks_wait_for_one_another_the_run_ends_with_75(ending, tmp_path):
    process = ending("never joins", "--ranks", "2", stderr=subprocess.DEVNULL)
    _until((tmp_path / "begun-1").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=HANGS_S) == 75
    _nobody_left(tmp_path)


def test_ranks_that_do_not_meet_end_with_76_and_say_so(ending, tmp_path):
    process = ending("never joins", "--ranks", "2", stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=HANGS_S)
    assert (process.returncode, "longer than run.join_s; start the same command again" in said) == (76, True), said
    _nobody_left(tmp_path)


def test_a_rank_that_stops_before_all_have_met_leaves_nobody_waiting_for_it(ending, tmp_path):
    assert ending("stops before it joins", "--ranks", "3", stderr=subprocess.DEVNULL).wait(timeout=HANGS_S) == 76
    _nobody_left(tmp_path)


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("way", ["waits", "stands in C"])
def test_where_nothing_moves_every_rank_says_where_it_stands_and_the_run_ends_with_76(way, n_ranks, ending, tmp_path):
    process = ending(way, "--ranks", str(n_ranks), stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=HANGS_S)
    assert process.returncode == 76
    assert said.count("nothing has moved for 1 s (run.stall_s)") == 1, said
    assert said.count("most recent call first") == n_ranks  # no log is open yet: on the terminal
    assert said.count(f"in {way.replace(' ', '_').lower()}") >= n_ranks
    _nobody_left(tmp_path)


@pytest.mark.long
def test_ranks_that_were_suspended_for_a_while_have_not_stood_still(ending, tmp_path):
    process = ending("listens", "--ranks", "2", stderr=subprocess.DEVNULL)
    _all_begun(tmp_path, 2)
    family = sorted(_family(tmp_path))
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in family:  # a watcher before its rank: it looks while the rank is not yet awake
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=HANGS_S) == 75


@pytest.mark.parametrize("victim", ["front", "launcher"])
def test_neither_front_nor_launcher_leaves_a_process_behind_when_it_is_killed(victim, ending, tmp_path):
    process = ending("stands in C", "--ranks", "2", stderr=subprocess.DEVNULL)
    _all_begun(tmp_path, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid if victim == "front" else int(children[0]), signal.SIGKILL)
    assert process.wait(timeout=HANGS_S) == (-9 if victim == "front" else 76)
    _nobody_left(tmp_path)


class Terminal:
    """A command at a terminal of its own, where Ctrl-C is a key."""

    def __init__(self, command, environment):
        self.pid, self._handle = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where the tests themselves were started in the background
            os.execvpe(command[0], command, environment)
        self.said = ""

    def press_interrupt(self):
        """Ctrl-C."""
        os.write(self._handle, b"\x03")

    def code(self):
        """The exit code; what was said is read meanwhile."""
        _until(self._read_to_end)
        os.close(self._handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read_to_end(self):
        if not select.select([self._handle], [], [], 0.1)[0]:
            return False
        try:
            data = os.read(self._handle, 65536)
        except OSError:  # Linux: the other side is closed
            return True
        self.said += data.decode()
        return not data


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize(("way", "n_presses"), [("listens", 1), ("stands in C, and nobody minds", 2)])
def test_interrupted_once_a_run_ends_in_good_order_and_twice_at_once(way, n_presses, n_ranks, ending, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ENDING": str(tmp_path)}
    terminal = Terminal([*ENDING, way, str(tmp_path), "--ranks", str(n_ranks)], environment)
    _all_begun(tmp_path, n_ranks)
    for _ in range(n_presses):
        terminal.press_interrupt()
        time.sleep(0.1)
    assert terminal.code() == 75, terminal.said
    assert terminal.said.count("start the same command again to go on") == 1, terminal.said
    assert "Abort" not in terminal.said
    assert "Traceback" not in terminal.said
    _nobody_left(tmp_path)


def test_a_python_program_in_which_nothing_moves_says_where_it_stands_and_ends():
    command = [sys.executable, "-u", PROGRAMS / "stand_still.py"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "moved\n")
    assert "in stands_here" in done.stderr
    assert "nothing has moved" in done.stderr
