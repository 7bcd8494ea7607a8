"""Random faults over runs of `drenet ... --ranks N` on this machine: nothing lost, nothing twice, no hang, a documented code.

`python tests/torture_here.py --faults 1000 [--seed 1]`. Every run is of 3,000 small files, 100 a folder, on 2, 3 or 5 ranks;
most only index them, every fourth screens them too. A run is struck up to three times at random moments, and started again
after each blow until it is complete: then its manifest, and its payload's digest, must be those of one rank left alone. The
last line is the result.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from headers_only import write_folders  # noqa: E402

DRENET = (sys.executable, "-m", "pipeline")
HANGS_S = 300
DOCUMENTED = frozenset({0, 1, 74, 75, 76})
"""Exit codes of the README but 2: what was sound before a blow is no wrong request after it."""
N_STUDIES = 30
STARTED_S = 0.3
"""Python itself has started by then: before, a signal to end ends it as it ends any process."""


@dataclass
class Tally:
    """What was done to the runs, and what came of it."""

    faults: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    n_runs: int = 0
    n_hung: int = 0
    n_lost: int = 0
    n_double: int = 0
    n_other: int = 0
    n_left: int = 0

    @property
    def sound(self):
        return not (self.n_hung or self.n_lost or self.n_double or self.n_other or self.n_left or set(self.codes) - DOCUMENTED)

    def __str__(self):
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        codes = ", ".join(f"{code} {n} times" for code, n in sorted(self.codes.items()))
        return (
            f"{sum(self.faults.values())} faults ({kinds}) over {self.n_runs} runs; exit codes: {codes}; {self.n_hung} hung, "
            f"{self.n_lost} lost, {self.n_double} double, {self.n_other} with another result, {self.n_left} processes left"
        )


class Start:
    """One start of a run, and what can be done to it. All of its processes are known by a mark in their environment."""

    def __init__(self, command, environment, log):
        self.mark = f"TORMENTED={time.time_ns()}"
        name, _, value = self.mark.partition("=")
        self.struck_front = False
        self.process = subprocess.Popen(
            command, env=environment | {name: value}, stdout=log, stderr=log, start_new_session=True
        )

    def family(self):
        """{process: its command line} of everything that is left of it."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
        return found

    def strike(self, kind, draw):
        """One fault; whether there was anything to strike."""
        target, number = FAULTS[kind]
        victims = [pid for pid, words in self.family().items() if target(self, pid, words)]
        if not victims:
            return False
        victim = draw.choice(sorted(victims))
        self.struck_front |= victim == self.process.pid and number == signal.SIGKILL
        return _sent(victim, number)

    def is_front(self, pid, _words):
        return pid == self.process.pid

    def is_launcher(self, pid, words):
        return pid != self.process.pid and b"mpiexec" in words[0]

    def is_proxy(self, _pid, words):
        return b"hydra_pmi_proxy" in words[0]

    def is_rank(self, pid, words):
        """A rank or its watcher."""
        return pid != self.process.pid and words[1:3] == [b"-m", b"pipeline"]


def _sent(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


FAULTS = {
    "rank or watcher killed": (Start.is_rank, signal.SIGKILL),
    "rank or watcher crashed": (Start.is_rank, signal.SIGSEGV),
    "rank asked to stop": (Start.is_rank, signal.SIGUSR1),
    "rank terminated": (Start.is_rank, signal.SIGTERM),
    "launcher killed": (Start.is_launcher, signal.SIGKILL),
    "proxy killed": (Start.is_proxy, signal.SIGKILL),
    "front killed": (Start.is_front, signal.SIGKILL),
    "front terminated": (Start.is_front, signal.SIGTERM),
    "front interrupted": (Start.is_front, signal.SIGINT),
}


@dataclass(frozen=True)
class Bench:
    """The archive, the network, and what one undisturbed rank makes of them."""

    folder: Path
    manifest: bytes
    digest: str
    lasts_s: dict[str, float]
    """How long a run on three ranks lasts that nothing disturbs, by command: blows fall within it."""

    @property
    def environment(self):
        return environment_of(self.folder)

    def command(self, what, out, n_ranks):
        weights = ["--weights", self.folder / "slim.safetensors"] if what == "screen" else []
        words = [what, self.folder / "archive", *weights, "--out", out, "--ranks", n_ranks]
        return [*DRENET, *map(str, words)]


def environment_of(folder):
    return os.environ | {"PYTHONPATH": str(ROOT), "DRENET_KEY_FILE": str(folder / "key")}


def prepare(folder, *, screens=True):
    """What one rank makes of 3,000 small files; `screens` false: index only."""
    archive = write_folders(folder / "archive", N_STUDIES, 100)
    run = {"env": environment_of(folder), "check": True, "capture_output": True, "text": True}
    subprocess.run([*DRENET, "key", folder / "key"], **run)
    out, digest = folder / "one", ""
    subprocess.run([*DRENET, "index", archive, "--out", out], **run)
    if screens:
        from pipeline.study.drenet import formula_network, save_checkpoint

        save_checkpoint(formula_network(1 / 16), folder / "slim.safetensors")
        subprocess.run([*DRENET, "screen", archive, "--weights", folder / "slim.safetensors", "--out", out], **run)
        digest = _digest(out, folder)
    bench = Bench(folder, (out / "private" / "manifest.jsonl").read_bytes(), digest, {})
    for what in ("index", "screen") if screens else ("index",):
        begun = time.monotonic()
        subprocess.run(bench.command(what, folder / f"three-{what}", 3), **run)
        bench.lasts_s[what] = time.monotonic() - begun
    return bench


def _digest(out, folder):
    run = {"env": environment_of(folder), "check": True, "capture_output": True, "text": True}
    return subprocess.run([*DRENET, "gather", out, "--digest"], **run).stdout.split()[-1]


def torment(bench, n_faults, seed):
    """Do `n_faults` to as many runs as it takes; the tally."""
    draw, tally = random.Random(seed), Tally()
    while sum(tally.faults.values()) < n_faults:
        what = "screen" if bench.digest and tally.n_runs % 4 == 3 else "index"
        out = bench.folder / f"run-{tally.n_runs}"
        n_ranks = draw.choice((2, 3, 5))
        n_blows = min(draw.randint(1, 3), n_faults - sum(tally.faults.values()))
        _one(bench, (what, out, n_ranks), n_blows, draw, tally)
        _compare(bench, what, out, tally)
        tally.n_runs += 1
        print(f"run {tally.n_runs}: {tally}", flush=True)
        shutil.rmtree(out)
    return tally


def _one(bench, run, n_blows, draw, tally):
    """One run until it is complete."""
    log = bench.folder / "log.txt"
    code = None
    while code != 0:
        with log.open("a") as file:
            fresh = not run[1].exists()
            begun = time.monotonic()
            start = Start(bench.command(*run), bench.environment, file)
            if n_blows and _goes_on(start, draw.uniform(STARTED_S, bench.lasts_s[run[0]])):
                kind = draw.choice(list(FAULTS))
                if start.strike(kind, draw):
                    tally.faults[kind] += 1
                    n_blows -= 1
            elif n_blows and fresh:
                bench.lasts_s[run[0]] = time.monotonic() - begun  # the machine has become quicker: the next blow comes earlier
            code = _ended(start, tally)


def _goes_on(start, after_s):
    """Whether it has not come to its end within `after_s`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        start.process.wait(timeout=after_s)
    return start.process.poll() is None


def _ended(start, tally):
    """The exit code, counted where it is the front's own; nothing of the start may be left."""
    try:
        code = start.process.wait(timeout=HANGS_S)
    except subprocess.TimeoutExpired:
        tally.n_hung += 1
        code = None
    if not start.struck_front and code is not None:
        tally.codes[code] += 1
    ends = time.monotonic() + 10
    while (left := start.family()) and time.monotonic() < ends:
        time.sleep(0.05)
    tally.n_left += len(left)
    for pid in left:
        _sent(pid, signal.SIGKILL)
    return code


def _compare(bench, what, out, tally):
    if (out / "private" / "manifest.jsonl").read_bytes() != bench.manifest:
        tally.n_other += 1
    if what == "index":
        return
    from pipeline import open_run

    keys = open_run(out).studies["study_key"]
    tally.n_lost += N_STUDIES - keys.nunique()
    tally.n_double += len(keys) - keys.nunique()
    tally.n_other += _digest(out, bench.folder) != bench.digest


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        tally = torment(prepare(Path(name)), options.faults, options.seed)
    print(f"seed {options.seed}, {(time.time() - begun) / 60:.0f} min: {tally}")
    return int(not tally.sound)


if __name__ == "__main__":
    sys.exit(main())
