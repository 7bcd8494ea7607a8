"""The tables say who lies above a network's operating threshold, where it states one."""

import csv
from dataclasses import replace

import pytest

from pipeline.study.drenet import formula_network, load_checkpoint, save_checkpoint


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_network_that_states_a_threshold_gets_a_column_and_one_that_does_not_gets_none(plain, weights, drenet, tmp_path):
    network = formula_network(1 / 16, phase=0.5)
    unstated = load_checkpoint(weights).metadata
    network.metadata = replace(unstated, threshold=0.5)
    save_checkpoint(network, tmp_path / "stated.safetensors")
    networks = ("--weights", weights, "--weights", f"mine={tmp_path / 'stated.safetensors'}")
    done = drenet(*plain.screen, *networks, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout
    for name in ("studies.csv", "patients.csv"):
        scored = [row for row in rows(tmp_path / "run" / name) if row["mine"]]
        assert scored
        assert "above_threshold" not in scored[0]
        assert all(int(row["mine_above"]) == (float(row["mine"]) >= 0.5) for row in scored)
