"""Configuration is strict, and says what it knows."""

import pytest

from pipeline.config import Config, differing_fields, read_config, to_toml
from pipeline.errors import ConfigurationError


def test_an_unknown_key_names_the_known_ones(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[fill]\ncopys = 3\n")
    with pytest.raises(ConfigurationError, match=r"copys.*known here: kind, copies"):
        read_config(path)


def test_the_written_configuration_reads_back_equal(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(to_toml(Config()))
    assert read_config(path) == Config()


def test_only_fields_that_change_results_count_as_different(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[run]\nmax_attempts = 9\n[fill]\ncopies = 4\n")
    assert differing_fields(Config(), read_config(path)) == ["fill.copies"]


@pytest.mark.parametrize("name", ["paper", "published"])
def test_the_shipped_configurations_are_valid(name):
    from pathlib import Path

    config = read_config(Path(__file__).parents[1] / "configs" / f"{name}.toml")
    assert (config == Config()) == (name == "paper")
