"""The programs that tests start: those of wheels, beside the Python that runs the tests, and our own in programs/."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(__file__).with_name("programs")


def tool(name):
    """Path of a program of this virtual environment (mpiexec, shellcheck ...) as a string."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: `make test-env` brings it")
    return str(path)


def program(name):
    """How a program of tests/programs is started; its arguments follow."""
    return [sys.executable, str(PROGRAMS / f"{name}.py")]


def environment(**more):
    """Variables under which a started Python finds the package that is tested here."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in more.items()}


MADE = (".git", ".venv*", "build", "dist", "demo", "__pycache__", "*.pyc", "*.egg-info", ".*_cache", ".hypothesis")
"""What is no part of the repository but lies in its folder: see .gitignore."""


def copy_of_the_repository(folder):
    """The repository's files at `folder`, which is new, as a fresh checkout has them."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*MADE)))
