"""The programs that come with wheels: found beside the Python that runs the tests, whatever PATH says."""

import sys
from pathlib import Path


def tool(name):
    """Path of a program of this virtual environment (mpiexec, shellcheck ...) as a string."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: `make test-env` brings it")
    return str(path)
