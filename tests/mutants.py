"""Damaged files beside good studies: `python tests/mutants.py --mutants 20000 [--seed 1] [--ranks 3] [--folder DIR]`.

Small CT slices in many transfer syntaxes, multi-frame objects, pictures, ZIPs, TARs and gzip files are damaged (bits flipped,
cut off, spliced, lengths changed, tails of chance), and screened with six good studies. Single mutants end at the index; some
stand within complete studies, so that decoders and lungs see them too. The run must end with 0, no rank lost, no fault of the
program, the good studies' rows byte for byte those of a run without mutants; the largest rank is compared with that run's.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from dataclasses import dataclass, field
from gzip import compress as gzipped
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from pipeline.phantom.images import compress, to_bytes  # noqa: E402
from tests.fabricate import N_SLICES, images, phantom  # noqa: E402

BASE = "1.2.840.10008.1.2"
SYNTAXES = ("", ".1", ".1.99", ".2", ".5", ".4.57", ".4.70", ".4.80", ".4.90")
ZIPS = {"stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
TARS = {"tar": "w", "tar.gz": "w:gz"}
N_GOOD = 6
MUTATED_A_STUDY = 3
TIMEOUT_S = 7200
DIED, FAULT = "WORKER_LOST", "INTERNAL_ERROR"


# ---- what is damaged ----


def slices_of(syntax, name):
    """A sound series in one syntax, as files' bytes."""
    data_sets = images(name)
    for data in data_sets:
        compress(data, BASE + syntax)
    return [to_bytes(data).getvalue() for data in data_sets]


def zip_of(files, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.dcm", data)
    return buffer.getvalue()


def tar_of(files, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for number, data in enumerate(files):
            entry = tarfile.TarInfo(f"{number}.dcm")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def containers(files):
    """The files in every kind of container."""
    return [zip_of(files, method) for method in ZIPS.values()] + [tar_of(files, mode) for mode in TARS.values()]


def pictures():
    """A chest's slices as PNG and as JPEG."""
    noise = np.random.default_rng(1).integers(0, 60, (128, 128), np.uint8)
    grey = np.where(np.hypot(*np.mgrid[-1:1:128j, -1:1:128j]) < 0.8, 180, 0).astype(np.uint8) + noise
    return [cv2.imencode(kind, grey)[1].tobytes() for kind in (".png", ".jpg")]


def volumes():
    """A ball with two lungs as NIfTI, plain and packed."""
    import nibabel

    voxels = phantom().hu.transpose(2, 1, 0)
    data = nibabel.Nifti1Image(voxels, np.diag([-10.0, -10.0, 8.0, 1.0])).to_bytes()
    return [data, gzipped(data)]


# ---- how ----


def flipped(data, draw):
    """Some bits changed."""
    for _ in range(draw.choice((1, 1, 4, 30))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(data, draw):
    """The end is missing."""
    del data[draw.randrange(1, len(data)) :]


def spliced(data, draw):
    """A stretch is lost, doubled, or overwritten with another one."""
    start, other, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 600)
    data[start : start + draw.choice((0, length))] = data[other : other + draw.choice((0, length))]


def other_lengths(data, draw):
    """A number of two, four or eight bytes is another one, as hostile lengths are."""
    size, order = draw.choice(((2, "H"), (4, "I"), (8, "Q"))), draw.choice("<>")
    value = draw.choice((0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 63, draw.getrandbits(64)))
    place = draw.randrange(len(data))
    data[place : place + size[0]] = struct.pack(order + size[1], value % (1 << 8 * size[0]))


def tailed(data, draw):
    """The end is chance."""
    start = draw.randrange(len(data))
    data[start:] = draw.randbytes(draw.randrange(1, 3000))


WAYS = (flipped, flipped, cut, spliced, other_lengths, other_lengths, tailed)


def mutant(data, draw, *, behind=0):
    """Damaged bytes; half of them in the first 1,000, where headers are, none before `behind`."""
    damaged = bytearray(data)
    end = len(data) if behind or draw.random() < 0.5 else min(len(data), 1000)
    part = damaged[behind:end]
    draw.choice(WAYS)(part, draw)
    damaged[behind:end] = part
    return bytes(damaged)


# ---- where ----


class Heap:
    """Folders of the archive that are filled one after the other."""

    def __init__(self, archive, per_folder):
        self.archive, self.per_folder = archive, per_folder
        self.n_files = self.n_mutants = self.n_studies = 0

    def lay(self, data):
        """One mutant among others."""
        folder = self.archive / "mutants" / f"{self.n_files // self.per_folder:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.n_files:06d}").write_bytes(data)
        self.n_files += 1
        self.n_mutants += 1

    def study(self, files, n_mutants):
        """A folder of its own, of which so many files are mutants."""
        folder = self.archive / "studies" / f"{self.n_studies:05d}"
        folder.mkdir(parents=True)
        for number, data in enumerate(files):
            (folder / f"{number:03d}").write_bytes(data)
        self.n_studies += 1
        self.n_mutants += n_mutants


def damaged_study(number, draw):
    """A complete series, some of whose slices have damaged pixels."""
    files = slices_of(SYNTAXES[number % len(SYNTAXES)], f"study {number}")
    for place in draw.sample(range(N_SLICES), MUTATED_A_STUDY):
        at = max(files[place].rfind(b"\xe0\x7f\x10\x00"), files[place].rfind(b"\x7f\xe0\x00\x10"), 300)
        files[place] = mutant(files[place], draw, behind=at + 12)
    return files


def lay_mutants(heap, n_mutants, draw):
    """A fifteenth each in studies and in pictures, a fifth containers, the rest single slices."""
    from tests.test_archive_syntaxes import ENHANCED, fragmented, multi_frame

    objects = [multi_frame(ENHANCED), multi_frame(ENHANCED)]
    fragmented(objects[1], has_bot=True, fragments=1)
    single = [data for syntax in SYNTAXES for data in slices_of(syntax, "single")[:4]]
    single += [to_bytes(data).getvalue() for data in objects] + [gzipped(single[0]), gzipped(single[-1])]
    single += volumes()
    small, whole = containers(slices_of(".1", "few")[:4]), containers(slices_of(".1", "many"))
    while heap.n_mutants < n_mutants // 15:
        heap.study(damaged_study(heap.n_studies, draw), MUTATED_A_STUDY)
    while heap.n_mutants < 2 * n_mutants // 15:
        heap.study([mutant(draw.choice(pictures()), draw) for _ in range(N_SLICES)], N_SLICES)
    while heap.n_mutants < n_mutants // 3:
        heap.lay(mutant(draw.choice(small if heap.n_mutants % 10 else whole), draw))
    while heap.n_mutants < n_mutants:
        heap.lay(mutant(draw.choice(single), draw))


# ---- what becomes of it ----


@dataclass
class Run:
    """One run's end: exit code, seconds, largest resident memory of a rank and of a decode child in MB, folder."""

    code: int
    seconds: float
    rank_mb: float
    child_mb: float
    out: Path
    said: str = ""

    def rows(self):
        """{study key: its row, as it stands in studies.csv}."""
        lines = (self.out / "studies.csv").read_bytes().splitlines()
        return {line.partition(b",")[0]: line for line in lines[1:]}

    def mentions(self, code):
        """How many rows of the tables bear a reason."""
        tables = [(self.out / name).read_text() for name in ("studies.csv", "exclusions.csv")]
        return sum(code in line for table in tables for line in table.splitlines())


@dataclass
class Memory:
    """The largest processes of a run, looked at while it lasts; found by the run's own folder in their environment."""

    mark: str
    rank_kb: int = 0
    child_kb: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self):
        while not self._over.wait(0.2):
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError, IndexError, ValueError):
                    if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                        self._look(folder)

    def _look(self, process):
        peak_kb = int((process / "status").read_text().partition("VmHWM:")[2].split()[0])
        words = (process / "cmdline").read_bytes()
        if b"_decode_child" in words:
            self.child_kb = max(self.child_kb, peak_kb)
        elif b"-m\0pipeline\0" in words:
            self.rank_kb = max(self.rank_kb, peak_kb)

    def over(self):
        self._over.set()


def screened(archive, weights, out, ranks):
    """Screen an archive as a user does."""
    key = f"DRENET_KEY_FILE={archive.parent / 'key'}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MUTANTS_RUN": str(out)}
    environment[key.partition("=")[0]] = key.partition("=")[2]
    command = [sys.executable, "-m", "pipeline", "screen", archive, "--weights", weights, "--out", out]
    command += ["--ranks", ranks] if ranks > 1 else []
    memory, begun = Memory(f"MUTANTS_RUN={out}"), time.monotonic()
    watcher = threading.Thread(target=memory.watch)
    watcher.start()
    try:
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    finally:
        memory.over()
        watcher.join()
    seconds = time.monotonic() - begun
    return Run(done.returncode, seconds, memory.rank_kb / 1024, memory.child_kb / 1024, out, done.stdout + done.stderr)


def compared(folder, n_mutants, seed, ranks=3, per_folder=200):
    """(run without mutants, run with them, how many there were) in `folder`."""
    from pipeline.phantom import write_archive
    from pipeline.study.drenet import formula_network, save_checkpoint

    weights = folder / "slim.safetensors"
    save_checkpoint(formula_network(1 / 16), weights)
    write_archive(folder / "clean", studies=N_GOOD, matrix=64, slices=24)
    shutil.copytree(folder / "clean", folder / "archive")
    heap = Heap(folder / "archive", per_folder)
    lay_mutants(heap, n_mutants, random.Random(seed))
    clean = screened(folder / "clean", weights, folder / "run-clean", ranks)
    return clean, screened(folder / "archive", weights, folder / "run-mutants", ranks), heap.n_mutants


def troubles(clean, mutants):
    """What is not as it must be, in words."""
    if clean.code or mutants.code:
        return [f"exit codes {clean.code} and {mutants.code}: {mutants.said[-2000:]}"]
    rows, others = clean.rows(), mutants.rows()
    found = [f"{mutants.mentions(code)} x {code}" for code in (DIED, FAULT) if mutants.mentions(code)]
    if len(rows) != N_GOOD:
        found.append(f"{len(rows)} good studies")
    return found + [f"the row of good study {key.decode()} differs" for key, row in rows.items() if others.get(key) != row]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--per-folder", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mutants-"))
    clean, mutants, n_mutants = compared(folder, options.mutants, options.seed, options.ranks, options.per_folder)
    found = troubles(clean, mutants)
    print(*found, sep="\n")
    print(
        f"seed {options.seed}: {n_mutants} mutants on {options.ranks} ranks, "
        f"exit {mutants.code} after {mutants.seconds:.0f} s, "
        f"{len(mutants.rows()) if not mutants.code else 0} studies; largest rank {mutants.rank_mb:.0f} MB, "
        f"{mutants.rank_mb / clean.rank_mb:.2f} times that without mutants ({clean.rank_mb:.0f} MB); largest decode child "
        f"{mutants.child_mb:.0f} MB ({clean.child_mb:.0f} MB); {'NOT AS IT MUST BE' if found else 'good rows identical'}"
    )
    if not found and not options.folder:
        shutil.rmtree(folder)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
