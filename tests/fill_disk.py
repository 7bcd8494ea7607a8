"""`python tests/fill_disk.py FOLDER`: gathers a run on a small file system of its own (root only) as room for it grows.

Prints a line a try: the room in KiB, what became of it, whether the tables are whole. A crash of a library ends it by a signal.
"""

import subprocess
import sys
from pathlib import Path

from fabricate_run import NETWORK, fabricated_run

from pipeline.errors import PipelineError
from pipeline.run import gather as gathering
from pipeline.run import write_hdf5 as columns
from pipeline.run.gather import gather, payload_digest


def n_bytes(folder):
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def mount(folder, kib, *, again=True):
    options = f"remount,size={kib}k" if again else f"size={kib}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def tried(run, before):
    try:
        gather(run, [NETWORK])
    except PipelineError as error:
        whole = payload_digest(run) == before and not list(run.glob(".*"))
        return f"exit {error.exit_code}, {'whole' if whole else 'BROKEN'}"
    return "exit 0, whole" if payload_digest(run) == before else "exit 0, BROKEN"


def main(folder):
    mount(folder, 8192, again=False)
    try:
        fabricated_run(folder / "run", n_studies=100)
        before = payload_digest(folder / "run")
        needed = n_bytes(folder / "run") // 1024
        columns.BATCH = gathering.BATCH = 10  # several batches, so that the room ends in the middle too
        for kib in range(needed + 20, needed + 820, 40):
            mount(folder, kib)
            print(kib, tried(folder / "run", before), flush=True)
    finally:
        subprocess.run(["umount", folder], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
