"""Programs that come with wheels, found beside the Python that runs the tests whatever PATH says; a copy of the repository."""

import shutil
import sys
from pathlib import Path


def tool(name):
    """Path of a program of this virtual environment (mpiexec, shellcheck ...) as a string."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: `make test-env` brings it")
    return str(path)


MADE = (".git", ".venv*", "build", "dist", "demo", "__pycache__", "*.pyc", "*.egg-info", ".*_cache", ".hypothesis")
"""What is no part of the repository but lies in its folder: see .gitignore."""


def copy_of_the_repository(folder):
    """The repository's files at `folder`, which is new, as a fresh checkout has them."""
    return Path(shutil.copytree(Path(__file__).parents[1], folder, ignore=shutil.ignore_patterns(*MADE)))
