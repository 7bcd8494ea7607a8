"""Random faults over runs of small studies on the test cluster: nothing lost, nothing twice, the same digest in the end.

`python tests/torture.py --faults 100 [--seed 1] [--folder DIR]`, as root, with Slurm installed; the last line is the result.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from headers_only import write_folders  # noqa: E402
from slurm_bed import Bed, missing  # noqa: E402

from pipeline.config import ClusterConfig  # noqa: E402
from pipeline.run.journal import journal_files, read_lines  # noqa: E402
from pipeline.run.read_tables import open_run  # noqa: E402
from pipeline.submission import job_script  # noqa: E402

DRENET = (sys.executable, "-m", "pipeline")
N_SOUND, N_SMALL = 40, 30
N_STUDIES = N_SOUND + N_SMALL
"""Patients to be scored, and folders of 100 small files each, which are indexed, dealt and found to show no chest."""
N_RANKS = 4


@dataclass
class Tally:
    """What was done to the runs, and what came of it. `again` counts studies that were computed to their end more than once."""

    faults: Counter = field(default_factory=Counter)
    n_runs: int = 0
    n_attempts: int = 0
    n_lost: int = 0
    n_double: int = 0
    n_other: int = 0
    again: list = field(default_factory=list)

    def __str__(self):
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        worst = max(self.again, default=0)
        return (
            f"{sum(self.faults.values())} faults ({kinds}) over {self.n_runs} runs of {N_STUDIES} studies, "
            f"{self.n_attempts} attempts: "
            f"{self.n_lost} lost, {self.n_double} double, {self.n_other} with another digest; "
            f"{sum(self.again)} computed twice to their end, at most {worst} in a run"
        )


class Tormented:
    """One run on the cluster, and what can be done to it."""

    def __init__(self, bed, script, arguments, out, draw):
        self.bed, self.script, self.arguments, self.out, self.draw = bed, script, arguments, out, draw
        self.job = self._submit()

    def _submit(self):
        return self.bed.submit(self.script, *self.arguments, "--out", self.out)

    def running(self):
        return self.bed.run("squeue", "-h", "-j", self.job, "-o", "%T", check=False).strip() == "RUNNING"

    def rank(self):
        """kill -9 of a rank, not of its watcher."""
        processes = self._processes("pipeline")
        return self._kill([pid for pid, parent in processes.items() if parent in processes])

    def launcher(self):
        """kill -9 of srun."""
        return self._kill(list(self._processes("srun")))

    def node_daemon(self):
        """kill -9 of a node's slurmd, which comes back after a while."""
        node = self.draw.randint(1, self.bed.n_nodes)
        self.bed.kill_node(node)
        time.sleep(self.draw.uniform(0.5, 3))
        self.bed.start_node(node)
        return True

    def scancel(self):
        """The user ends the job, and submits it again."""
        self.bed.run("scancel", self.job)
        self.bed.wait(self.job)
        self.job = self._submit()
        return True

    def time_limit(self):
        """The job's end comes to be now."""
        soon = (datetime.now() + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
        self.bed.run("scontrol", "update", f"JobId={self.job}", f"EndTime={soon}", check=False)
        return True

    def preemption(self):
        """A job of a higher partition takes all nodes."""
        other = self.bed.submit("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 0.5")
        self.bed.wait(other)
        return True

    def requeue(self):
        """The operator puts it back into the queue."""
        self.bed.run("scontrol", "requeue", self.job, check=False)
        return True

    def finish(self):
        """Until the run is complete, submitting again what ended for another reason."""
        while True:
            self.bed.wait(self.job)
            if self.bed.state(self.job) == ("COMPLETED", 0):
                return
            self.job = self._submit()

    def _kill(self, pids):
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.draw.choice(sorted(pids)), signal.SIGKILL)
        return True

    def _processes(self, word):
        """{process: parent} of this job's own processes: ranks and their watchers ("pipeline"), or launchers ("srun")."""
        found, mark = {}, f"SLURM_JOB_ID={self.job}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                named = Path(os.fsdecode(words[0])).name == word or (
                    b"srun" not in words[0] and words[1:3] == [b"-m", word.encode()]
                )
                if named and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return found


FAULTS = ("rank", "launcher", "node_daemon", "scancel", "time_limit", "preemption", "requeue")


def torment(bed, studies, weights, expected, folder, n_faults, seed):
    """Do `n_faults` to as many runs as it takes; the tally. `expected` is the digest of one rank."""
    draw, tally = random.Random(seed), Tally()
    script = folder / "job.sbatch"
    section = ClusterConfig(partition="main", nodes=N_RANKS, walltime_min=10, drain_s=5, command=DRENET, relaunches=3)
    script.write_text(job_script(section))
    while sum(tally.faults.values()) < n_faults:
        out = folder / f"run-{tally.n_runs}"
        run, done = Tormented(bed, script, (studies, "--weights", weights), out, draw), 0
        for _ in range(min(draw.randint(1, 3), n_faults - sum(tally.faults.values()))):
            with contextlib.suppress(TimeoutError):
                bed.until(run.running, 60)
            time.sleep(draw.uniform(0.5, 12))
            kind = draw.choice(FAULTS)
            if run.running() and getattr(run, kind)():
                tally.faults[kind] += 1
                done += 1
        run.finish()
        _count(bed, run, tally, expected, done)
        print(f"run {tally.n_runs}: {tally}", flush=True)
    return tally


def _count(bed, run, tally, expected, n_faults):
    studies = open_run(run.out).studies
    tally.n_runs += 1
    tally.n_attempts += len(list((run.out / "logs").iterdir()))
    tally.n_lost += N_STUDIES - studies["study_key"].nunique()
    tally.n_double += len(studies) - studies["study_key"].nunique()
    said = "".join(path.read_text() for path in run.out.glob("logs/*/*.log"))
    computed = Counter(re.findall(r"study (\w+): OK", said))
    tally.again.append(sum(computed.values()) - len(computed))
    if n_faults and tally.again[-1] > N_RANKS * n_faults:
        raise AssertionError(f"{tally.again[-1]} studies were computed again after {n_faults} faults")
    tally.n_other += bed.run(*DRENET, "gather", run.out, "--digest").split()[-1] != expected
    records = [line.result.study_key for path in journal_files(run.out) for _, line in read_lines(path) if line.result]
    tally.n_lost += N_STUDIES - len(set(records))


def prepare(bed, folder):
    """(archive, weights, digest of one rank)."""
    from pipeline.phantom import write_archive
    from pipeline.study.drenet import formula_network, save_checkpoint

    write_archive(folder / "archive", studies=N_SOUND, matrix=64, slices=24)
    write_folders(folder / "archive" / "many", N_SMALL, 100)
    weights = folder / "slim.safetensors"
    save_checkpoint(formula_network(1 / 16), weights)
    bed.run(*DRENET, "screen", folder / "archive", "--weights", weights, "--out", folder / "one")
    return folder / "archive", weights, bed.run(*DRENET, "gather", folder / "one", "--digest").split()[-1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if absent := missing():
        sys.exit(f"wanted: {', '.join(absent)} (Debian: see .ci/slurm-packages)")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="torture-"))
    with Bed(folder / "bed") as bed:
        bed.environment |= {"DRENET_KEY_FILE": str(folder / "key"), "PYTHONPATH": str(ROOT)}
        begun = time.time()
        tally = torment(bed, *prepare(bed, folder), folder, options.faults, options.seed)
    print(f"seed {options.seed}, {(time.time() - begun) / 60:.0f} min: {tally}")
    return int(bool(tally.n_lost or tally.n_double or tally.n_other))


if __name__ == "__main__":
    sys.exit(main())
