"""The notebooks run from top to bottom as they stand, and are kept without what they showed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells_of(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return notebook["cells"]


def code_of(path):
    """The code cells, each compiled by itself under its own name, so that a traceback tells the cell."""
    cells = ["".join(cell["source"]) for cell in cells_of(path) if cell["cell_type"] == "code"]
    return "".join(f"exec(compile({cell!r}, 'cell {number}', 'exec'))\n" for number, cell in enumerate(cells, 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code_of(path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (kept,) = tmp_path.glob("drenet-notebook-*")
    assert (kept / "run" / "report" / "index.html").exists()
    assert list((kept / "run" / "evaluation").glob("*/figures.csv"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_showed(path):
    cells = cells_of(path)
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
    assert path.stat().st_size < 20_000
