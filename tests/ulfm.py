"""Ranks killed under an MPI that survives it: `python tests/ulfm.py --runs 30 [--seed 1]`, Open MPI's mpirun beside python.

Every run screens 20 small studies on 5 ranks, of which 1 to 3 of ranks 1-4 are killed (kill -9) at random moments. A run must
end by itself, without being started again, with every study and the digest of one undisturbed rank. At last root is killed:
the launcher must end with an error that makes a job's script start the ranks again, and the second start ends whole.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

N_RANKS = 5
N_STUDIES = 20
HERE = {  # for a test machine: as root, more ranks than cores, no fabric; a cluster needs none of it
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_btl": "^ofi",
    "OMPI_MCA_mtl": "^ofi",
    "OMPI_MCA_osc": "^ucx",
}


class Trial:
    """One archive, one network, and runs over them under `mpirun --with-ft ulfm`."""

    def __init__(self, folder):
        from pipeline.phantom import write_archive
        from pipeline.study.drenet import formula_network, save_checkpoint

        self.folder = folder
        write_archive(folder / "archive", studies=N_STUDIES, matrix=64, slices=24)
        save_checkpoint(formula_network(1 / 16), folder / "slim.safetensors")
        self.environment = os.environ | HERE | {"DRENET_KEY_FILE": str(folder / "key"), "PYTHONPATH": str(ROOT)}
        self.screen = ["screen", str(folder / "archive"), "--weights", str(folder / "slim.safetensors"), "--out"]
        self._drenet(*self.screen, folder / "one")
        self.expected = self.digest(folder / "one")

    def _drenet(self, *arguments):
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def digest(self, out):
        """Of the run's payload."""
        return self._drenet("gather", out, "--digest").split()[-1]

    def start(self, out):
        """The run's launcher, under way."""
        from tests.tools import tool

        command = [tool("mpirun"), "--with-ft", "ulfm", "-n", str(N_RANKS), sys.executable, "-m", "pipeline", *self.screen, out]
        log = (self.folder / f"{out.name}.log").open("a")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def kill(self, rank):
        """kill -9 of this rank, which is its watcher's child; whether it was there."""
        ours = {int(folder.name): parent for folder in Path("/proc").glob("[0-9]*") if (parent := self._parent(folder, rank))}
        for process, parent in ours.items():
            if parent in ours and ours[parent] not in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    return True
        return False

    def _parent(self, folder, rank):
        """Of a process that belongs to this rank of this trial; else None."""
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes().split(b"\0")
            if {f"DRENET_KEY_FILE={self.folder / 'key'}".encode(), f"OMPI_COMM_WORLD_RANK={rank}".encode()} <= set(words):
                return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        return None


def tried(trial, draw, out):
    """One run, with how many killed; its exit code."""
    doomed = draw.sample(range(1, N_RANKS), draw.randint(1, 3))
    process = trial.start(out)
    n_killed = 0
    while process.poll() is None and not (out / "logs").exists():
        time.sleep(0.02)  # before all ranks have joined, none can do without the others: see launch.JOINING_S
    for rank in doomed:
        time.sleep(draw.uniform(0.1, 2.0))
        if process.poll() is None:
            n_killed += trial.kill(rank)
    return n_killed, process.wait(timeout=300)


def root_killed(trial, folder):
    """Whether a run whose root is killed ends with an error, and whole when started again; one over too soon is repeated."""
    for number in range(10):
        out = folder / f"root-{number}"
        process = trial.start(out)
        while process.poll() is None and not any(out.glob("journal/*/*.jsonl")):
            time.sleep(0.02)
        killed = trial.kill(0)
        code = process.wait(timeout=300)
        print(f"root {'killed' if killed else 'had ended before it could be killed'}: exit {code}", flush=True)
        if killed:
            again = trial.start(out).wait(timeout=300)
            return code not in (0, 1, 2, 74, 75) and again == 0 and trial.digest(out) == trial.expected
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="ulfm-"))
    trial, n_killed, n_whole = Trial(folder), 0, 0
    for number in range(options.runs):
        out = folder / f"run-{number}"
        killed, code = tried(trial, draw, out)
        whole = code == 0 and (out / "studies.csv").exists() and trial.digest(out) == trial.expected
        n_killed, n_whole = n_killed + killed, n_whole + whole
        print(f"run {number}: {killed} killed, exit {code}, {'whole' if whole else 'NOT WHOLE, see ' + str(out)}", flush=True)
    resumed = root_killed(trial, folder)
    print(
        f"seed {options.seed}: {n_killed} ranks killed in {options.runs} runs, {n_whole} whole without a restart; "
        f"root killed: {'the next start resumes' if resumed else 'NOT RESUMED'}"
    )
    return int(n_whole < options.runs or not resumed)


if __name__ == "__main__":
    sys.exit(main())
