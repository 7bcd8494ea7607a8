"""What `pip wheel .` packs is what the package needs, and the program works from the wheel alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from tests.tools import MADE, copy_of_the_repository

ROOT = Path(__file__).parents[1]
SMOKE = ("test_config.py", "test_run_find.py", "test_screening_single.py")
"""Tests that ask the package only, and run outside the repository."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_of_the_repository(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "."]
    done = subprocess.run([*command, "-w", str(folder)], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "pipeline").rglob("*") if path.is_file()]
    own = {str(path.relative_to(ROOT)) for path in files if not any(map(path.match, MADE)) and "__pycache__" not in path.parts}
    assert {name for name in names if ".dist-info/" not in name} == own
    kinds = {Path(name).suffix for name in own}
    assert kinds >= {".safetensors", ".js", ".css", ".j2", ".html", ".sh", ".toml", ".md", ".typed"}


def test_the_wheel_holds_licence_command_and_extras(wheel):
    with zipfile.ZipFile(wheel) as packed:
        (info,) = {name.partition("/")[0] for name in packed.namelist() if ".dist-info/" in name}
        licence = [name for name in packed.namelist() if name.startswith(info) and name.endswith("LICENSE")]
        assert [packed.read(name) for name in licence] == [(ROOT / "LICENSE").read_bytes()]
        assert "drenet = pipeline.__main__:main" in packed.read(f"{info}/entry_points.txt").decode()
        told = message_from_string(packed.read(f"{info}/METADATA").decode())
    assert {"mpi", "serve", "dimse", "dicom-out", "tensorboard", "docs"} <= set(told.get_all("Provides-Extra"))
    assert told["License"] == told["License-Expression"] or "Apache-2.0" in (told["License"], told["License-Expression"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_program_works_from_the_wheel_alone(wheel, tmp_path):
    """A fresh environment, the demo, and the smoke part of the tests, in a folder where no repository lies."""
    venv, work = tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "PIP_", "SSL_", "LC_", "LANG"))}
    environment = kept | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(list(map(str, command)), cwd=work, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run(sys.executable, "-m", "venv", venv)
    pins = ("-c", ROOT / "constraints.txt")
    run(venv / "bin" / "pip", "install", "--quiet", *pins, f"drenet-pipeline[mpi,test] @ {wheel.as_uri()}")
    assert str(venv) in run(venv / "bin" / "python", "-c", "import pipeline; print(pipeline.__file__)")
    run(venv / "bin" / "drenet", "demo", "demo")
    assert (work / "demo" / "run" / "report" / "index.html").exists()
    rest = copy_of_the_repository(tmp_path / "rest")
    shutil.rmtree(rest / "pipeline")  # only the installed one is left
    tests = [str(rest / "tests" / name) for name in SMOKE]
    run(venv / "bin" / "python", "-m", "pytest", "-q", "-m", "not slow", "--rootdir", rest, "-c", rest / "setup.cfg", *tests)


def test_the_recipes_install_what_is_in_the_repository_at_the_tested_versions():
    container = (ROOT / "slurm" / "container" / "Containerfile").read_text()
    apptainer = (ROOT / "slurm" / "container" / "drenet.def").read_text()
    copied = {word for line in container.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]}
    files = apptainer.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    assert copied == {line.split()[0] for line in files}
    assert all((ROOT / name).exists() for name in copied)
    install = "sh /opt/drenet-pipeline/install.sh /opt/drenet /opt/drenet-pipeline"
    assert install in container
    assert install in apptainer
    recipe = yaml.safe_load((ROOT / "slurm" / "conda" / "environment.yml").read_text())
    by_pip = recipe["dependencies"][-1]["pip"]
    here = ROOT / "slurm" / "conda"
    assert (here / by_pip[0].removeprefix("-c ")).resolve() == ROOT / "constraints.txt"
    assert (here / by_pip[1].partition("[")[0]).resolve() == ROOT
