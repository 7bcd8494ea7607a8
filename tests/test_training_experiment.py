"""The paper's experiment goes through from cohort to tables, on a cohort far too small to mean anything."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAN = """
[cohort]
counts = [10, 10, 10]
seed = 5
severity = [0.5, 0.95]
matrix = 128
slices = 24
atypical = 0.2

[recipe]
width = 0.0625
shares = [0.6, 0.2, 0.2]
micro_batch = 4
slices_per_epoch = 8
optimiser = "adamw"
learning_rate = 1e-3

[drenet]
trunk_epochs = 1
epochs = 1

[baseline]
epochs = 1
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_experiment_goes_through_on_the_same_patients_for_every_network(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    command = [sys.executable, ROOT / "benchmarks" / "study.py", tmp_path / "study", "--plan", tmp_path / "plan.toml"]
    for _ in range(2):  # the second time there is nothing left to train
        subprocess.run([*command, "--docs", tmp_path / "docs"], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    told = (tmp_path / "docs" / "README.md").read_text()
    assert told.count("synthetic patients |") == told.count("the paper's patients |") == 8
    assert told.count("paired DeLong") == told.count("Atypical patients bound every reader") == 2
    for task in ("covid-vs-bacterial", "covid-vs-healthy"):
        tested = [_patients(tmp_path / "study" / task / model) for model in ("drenet", "resnet50", "vgg16", "densenet121")]
        assert len(tested[0]) == 4
        assert all(keys == tested[0] for keys in tested)


def _patients(run):
    with (run / "evaluation" / "test" / "patients.csv").open() as file:
        return {row["patient_key"] for row in csv.DictReader(file)}
