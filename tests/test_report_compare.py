"""Two runs side by side: which scores moved, by how much, what else differs."""

import re
import shutil

import msgspec
import pandas as pd
import pytest

from pipeline import open_run
from pipeline.config import Config, FillConfig
from pipeline.errors import ConfigurationError
from pipeline.report import Options, write_report
from pipeline.report.compare import compare
from pipeline.run.run_toml import read_described, write_described
from tests.fabricate_run import fabricated_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and the same with three scores moved, one lost, and another fill."""
    folder = tmp_path_factory.mktemp("runs")
    here, there = folder / "here", folder / "there"
    fabricated_run(here, 40)
    shutil.copytree(here, there)
    name = read_described(here).networks[0].column
    studies = pd.read_csv(there / "studies.csv")
    scored = studies.index[studies[name].notna()]
    studies.loc[scored[:3], name] += [0.01, -0.2, 0.05]
    studies.loc[scored[3], ["status", name]] = ["FAILED", None]
    studies.to_csv(there / "studies.csv", index=False)
    described = msgspec.structs.replace(read_described(there), code_version="9", config=Config(fill=FillConfig(copies=3)))
    write_described(there, described)
    return here, there, studies.loc[scored[:3], "study_key"].tolist()


def test_the_scores_that_moved_are_told_the_largest_change_first(runs):
    here, there, keys = runs
    (moved,) = compare(open_run(here), there).moved
    assert (moved.n, moved.n_moved) == (35, 3)
    assert [row[0] for row in moved.rows] == [keys[1], keys[2], keys[0]]
    assert [row[3] for row in moved.rows] == pytest.approx([0.2, -0.05, -0.01])
    assert moved.mean == pytest.approx(0.14 / 35)
    changes = pd.Series([0.2, -0.05, -0.01, *[0.0] * 32])
    assert [moved.low, moved.high] == pytest.approx([changes.mean() + way * changes.std() for way in (-1.96, 1.96)])


def test_what_differs_in_settings_and_versions_is_told_and_nothing_else(runs):
    here, there, _ = runs
    assert compare(open_run(here), there).differences == (("code_version", "9", "0"), ("config.fill.copies", "3", "10"))


def test_studies_that_only_one_run_scored_are_counted(runs):
    here, there, _ = runs
    counts = dict(compare(open_run(here), there).counts)
    assert counts["studies in both runs"] == 40
    assert counts["in both, scored only in this run"] == 1
    assert counts["in both, scored only in the other run"] == counts["only in this run"] == 0


def test_a_run_against_itself_has_moved_nowhere(runs):
    here, _, _ = runs
    same = compare(open_run(here), here)
    assert (same.moved[0].n_moved, same.moved[0].rows, same.differences) == (0, (), ())


def test_networks_of_other_names_are_paired_by_their_weights(runs, tmp_path):
    here, there, _ = runs
    renamed = tmp_path / "run"
    shutil.copytree(there, renamed)
    described = read_described(renamed)
    name, network = described.networks[0].column, msgspec.structs.replace(described.networks[0], column="other_name")
    write_described(renamed, msgspec.structs.replace(described, networks=[network]))
    pd.read_csv(renamed / "studies.csv").rename(columns={name: "other_name"}).to_csv(renamed / "studies.csv", index=False)
    found = compare(open_run(here), renamed)
    assert [(one.name, one.name_there, one.n) for one in found.moved] == [(name, "other_name", 35)]
    assert found.unpaired == ()


def test_another_key_is_refused_for_no_study_would_be_met_again(runs, tmp_path):
    here, there, _ = runs
    shutil.copytree(there, tmp_path / "run")
    write_described(tmp_path / "run", msgspec.structs.replace(read_described(there), key_fingerprint="e" * 16))
    with pytest.raises(ConfigurationError, match="another pseudonym key"):
        write_report(here, Options(against=tmp_path / "run"))


def test_the_page_shows_the_comparison_where_one_was_asked_for(runs):
    here, there, keys = runs
    text = write_report(here, Options(against=there)).read_text()
    assert "3 of 35 scores moved, by 0.2000 at most" in text
    assert re.search(rf'href="#study={keys[1]}">.*?</td><td>.*?<td>\+0\.2000', text)
    assert "config.fill.copies" in text
    assert "Against another run" not in write_report(here).read_text()
