"""A run loads a library where it is first used: a rank that only computes loads none that only root's end needs."""

import json
import subprocess

from pipeline.phantom import write_archive
from tests.tools import environment, program

TABLES = ("h5py", "jinja2", "pandas", "pyarrow")
"""What gathering and the report are made with."""
OTHERS = ("matplotlib", "pydicom", "scipy", "sklearn", "torchvision", "transformers")
"""What a run of one study never uses."""


def test_a_rank_loads_nothing_of_tables_and_charts_before_its_first_study(weights, tmp_path):
    write_archive(tmp_path / "archive", studies=1, matrix=128, slices=20)
    command = [*program("screen_lightly"), tmp_path / "archive", weights, tmp_path / "run", *TABLES, *OTHERS]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    begun, ended = json.loads(done.stdout.splitlines()[-1])
    assert begun == []
    assert ended == sorted(TABLES)
    assert (tmp_path / "run" / "report" / "index.html").exists()
