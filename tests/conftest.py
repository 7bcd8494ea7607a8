"""What the tests share: a small cluttered archive, a slim network, and a way to start `drenet` as a user does."""

import csv
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tools import tool

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_signals():
    """Handlers as they were: a command that ends with an error, started within the tests, goes on deaf to a stop."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Four plain patients, JPEG-LS-compressed, and one study for each kind of clutter, 128 x 128 x 26."""
    from pipeline.phantom import write_archive

    folder = tmp_path_factory.mktemp("data") / "archive"
    write_archive(folder, studies=4, matrix=128, slices=26, compress="jpeg-ls", clutter=True)
    return folder


@pytest.fixture(scope="session")
def truth(archive):
    """truth.csv by patient ID."""
    with (archive.parent / "archive-truth" / "truth.csv").open() as file:
        return {row["study_uid"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A slim formula-made network's checkpoint."""
    from pipeline.study.drenet import formula_network, save_checkpoint

    path = tmp_path_factory.mktemp("weights") / "slim.safetensors"
    save_checkpoint(formula_network(1 / 16), path)
    return path


@dataclass(frozen=True)
class Plain:
    """A screened archive, its run's folder, and what `pipeline.screen` returned."""

    archive: Path
    run: Path
    summary: Any

    @property
    def digest(self):
        return self.summary.digest

    @property
    def screen(self):
        """What `drenet` is told to screen it again to the same pseudonyms, but the weights and `--out`."""
        return ("screen", self.archive, "--key-file", self.run.with_name("key"))


@pytest.fixture(scope="session")
def plain(weights, tmp_path_factory):
    """Four plain patients, screened here with the pictures of the top three kept."""
    import pipeline
    from pipeline.config import Config, RunConfig
    from pipeline.phantom import write_archive
    from pipeline.pseudonym import make_key

    folder = tmp_path_factory.mktemp("plain")
    make_key(folder / "key")
    write_archive(folder / "archive", studies=4, matrix=128, slices=26)
    config = Config(run=RunConfig(images_top=3, images_flag_at=2.0))
    done = pipeline.screen(folder / "archive", weights, folder / "run", config=config, key_file=folder / "key")
    return Plain(folder / "archive", folder / "run", done)


@pytest.fixture(scope="session")
def drenet(tmp_path_factory):
    """Start `drenet ...` as a process of its own group: drenet("screen", ...) -> CompletedProcess or Popen."""
    key = tmp_path_factory.mktemp("key") / "pseudonym.key"
    environment = os.environ | {"DRENET_KEY_FILE": str(key), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(*arguments, wait=True, fault=None, ranks=1, **variables):
        """`fault` names a function of faults.py; with it, `ranks` are started here."""
        program = [sys.executable, "-m", "pipeline"]
        if fault:
            launcher = [tool("mpiexec"), "-n", str(ranks)] if ranks > 1 else []
            program = [*launcher, sys.executable, str(ROOT / "tests" / "faults.py"), fault]
        command = [*program, *map(str, arguments)]
        if ranks > 1 and not fault:
            command += ["--ranks", str(ranks)]
        options = {"env": environment | variables, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if wait:
            return subprocess.run(command, timeout=300, check=False, **options)
        options["stdout"] = subprocess.DEVNULL
        return subprocess.Popen(command, start_new_session=True, **options)

    return start


@pytest.fixture(scope="session")
def real_data():
    folder = os.environ.get("DRENET_TEST_DATA")
    if not folder:
        pytest.skip("no real series here: DRENET_TEST_DATA=FOLDER names them, docs/testing.md says which")
    return Path(folder)


ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
CURE = re.compile(r"`make [a-z-]+`|\b[A-Z_]+=\S|(pip|apt-get) install \S")
_skipped = {}  # node ID: the reason given


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped[report.nodeid] = report.longrepr[2]


def pytest_collectreport(report):
    """A whole file may be skipped too."""
    if report.skipped:
        _skipped[report.nodeid] = report.longrepr[2]


def pytest_sessionfinish(session):
    """A skip that does not say what would bring the test is a failure; in CI one that the committed list lacks is, too."""
    allowed = {line.split("#")[0].strip() for line in ALLOWED_SKIPS.read_text().splitlines()}
    without_cure = {name for name, reason in _skipped.items() if not CURE.search(reason)}
    unexpected = set(_skipped) - allowed if os.environ.get("CI") else set()
    complaints = {"skipped without a word on what would bring it": without_cure}
    complaints |= {"skipped, and not in tests/allowed_skips.txt": unexpected}
    for complaint, names in complaints.items():
        if names:
            print(f"\n{complaint}:", *sorted(names), sep="\n  ")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
