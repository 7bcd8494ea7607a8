"""Archives of many small files, indexed and screened on several ranks: `python tests/sizes.py [--full]`.

Each archive is indexed once by one rank; every other number of ranks must end, with the manifest of that one to the byte. This
runs under whatever MPI lies beside this Python, with sends as they are and with synchronous ones (synchronous.py). `--full`
takes the archives of real size, 8 ranks, and the screening of 300 studies; `--repeats N` indexes the two ordinary archives
2 N times more on 3 ranks. The last line is the result.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from headers_only import header_file, write_folders  # noqa: E402
from ulfm import HERE  # noqa: E402

LIMIT_S = 900
"""A run that takes longer has hung: the slowest takes a minute or two."""
SMALL = {
    "30 folders of 100 files": (30, 100),
    "20 folders of 400 files": (20, 400),
    "1 folder of 3,000 files": (1, 3000),
    "400 folders of 1 file": (400, 1),
}
FULL = {
    **SMALL,
    "10 folders of 2,000 files": (10, 2000),
    "1 folder of 20,000 files": (1, 20_000),
    "10,000 folders of 1 file": (10_000, 1),
    "1,000 folders of 100 files": (1000, 100),
}
ORDINARY = ("30 folders of 100 files", "20 folders of 400 files")


@dataclass(frozen=True)
class Runner:
    """How `drenet` is started here: every run with the same key."""

    folder: Path

    def start(self, n_ranks, *arguments, synchronous=False):
        """`drenet` with `arguments`: the exit code and what was said; 124 where it hung."""
        program = [ROOT / "tests" / "synchronous.py"] if synchronous else ["-m", "pipeline"]
        return self.launched(n_ranks, *program, *arguments)

    def launched(self, n_ranks, *arguments):
        """The same of this Python with `arguments`."""
        launcher = [Path(sys.executable).with_name("mpiexec"), "-n", str(n_ranks)] if n_ranks > 1 else []
        command = [*launcher, sys.executable, *map(str, arguments)]
        environment = os.environ | HERE | {"PYTHONPATH": str(ROOT), "DRENET_KEY_FILE": str(self.folder / "key")}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            return 124, f"hung: {error.stdout}"
        return done.returncode, done.stdout + done.stderr

    def indexed(self, archive, n_ranks, **how):
        """The manifest that `n_ranks` write of `archive`, and the seconds that it took."""
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        begun = time.monotonic()
        code, said = self.start(n_ranks, "index", archive, "--out", out, **how)
        if code:
            raise SystemExit(f"index of {archive.name} on {n_ranks} ranks, {how}: exit {code}\n{said}")
        return (out / "private" / "manifest.jsonl").read_bytes(), time.monotonic() - begun


def zipped(path, n_members):
    """One ZIP of so many images."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(n_members):
            archive.writestr(f"{number // 100:05d}/{number:06d}.dcm", header_file(number // 100, number % 100))


def archives(folder, *, full):
    """(name, archive) one after another, so that no more than one lies on the disk."""
    shapes = FULL if full else SMALL
    for name, (n_folders, per_folder) in shapes.items():
        yield name, write_folders(folder / f"{n_folders}x{per_folder}", n_folders, per_folder)
    yield "names of 190 characters", write_folders(folder / "long", 10, 100, name_length=190)
    n_members = 20_000 if full else 2000
    (folder / "zip").mkdir()
    zipped(folder / "zip" / "one.zip", n_members)
    yield f"one ZIP of {n_members:,} members", folder / "zip"


def exchanged(runner, ranks):
    """Messages of every size (messages.py) in every way; the number of runs."""
    ways = list(product(ranks, ("as they are", "synchronous")))
    for n_ranks, how in ways:
        code, said = runner.launched(n_ranks, ROOT / "tests" / "messages.py", how)
        if code:
            raise SystemExit(f"messages on {n_ranks} ranks, {how}: exit {code}\n{said}")
    return len(ways)


def compare(runner, name, archive, ways):
    """Index `archive` in all `ways` (ranks, whether sends are synchronous); the number of runs."""
    expected, alone_s = runner.indexed(archive, 1)
    for n_ranks, synchronous in ways:
        manifest, seconds = runner.indexed(archive, n_ranks, synchronous=synchronous)
        if manifest != expected:
            raise SystemExit(f"{name}: {n_ranks} ranks wrote another manifest than one")
        print(f"{name}: {n_ranks} ranks{', synchronous' * synchronous}: {seconds:.1f} s (one rank {alone_s:.1f} s)", flush=True)
    return len(ways)


def screened(runner, ranks):
    """300 small studies of several to a folder, screened by one rank and by several; the number of runs."""
    from pipeline.phantom import write_archive
    from pipeline.study.drenet import formula_network, save_checkpoint

    archive, weights = runner.folder / "studies", runner.folder / "slim.safetensors"
    write_archive(archive, studies=300, matrix=64, slices=24)
    _four_to_a_folder(archive)
    save_checkpoint(formula_network(1 / 16), weights)
    digests = {}
    for n_ranks in (1, *ranks):
        out = runner.folder / f"screened-{n_ranks}"
        begun = time.monotonic()
        code, said = runner.start(n_ranks, "screen", archive, "--weights", weights, "--out", out, synchronous=n_ranks == 3)
        if code:
            raise SystemExit(f"screen on {n_ranks} ranks: exit {code}\n{said}")
        digests[n_ranks] = runner.start(1, "gather", out, "--digest")[1].split()[-1]
        print(f"screen of 300 studies: {n_ranks} ranks: {time.monotonic() - begun:.1f} s", flush=True)
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the digest depends on the number of ranks: {digests}")
    return len(ranks)


def _four_to_a_folder(archive):
    """What `write_archive` keeps a folder a study, as folders of some 100 files."""
    files = sorted(path for path in archive.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        home = archive / f"together-{number // 100:04d}"
        home.mkdir(exist_ok=True)
        path.rename(home / f"{number:06d}-{path.name}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--ranks", default="", help="such as 2,3,5,8")
    options = parser.parse_args()
    ranks = [int(number) for number in (options.ranks or ("2,3,5,8" if options.full else "2,3")).split(",")]
    n_runs = 0
    with tempfile.TemporaryDirectory(prefix="sizes-") as name:
        runner = Runner(Path(name))
        n_runs += exchanged(runner, ranks)
        for title, archive in archives(runner.folder, full=options.full):
            again = [(3, True), (3, False)] * (options.repeats if title in ORDINARY else 0)
            n_runs += compare(runner, title, archive, [*product(ranks, (False, True)), *again])
            shutil.rmtree(archive)
        if options.full:
            n_runs += screened(runner, ranks)
    print(f"{n_runs} runs on {ranks} ranks: none hung, each with the messages, the manifest or the digest of one rank")


if __name__ == "__main__":
    main()
