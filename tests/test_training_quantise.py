"""`drenet quantise` measures how a network is rounded; a run in int8 says the same on any number of ranks, and when resumed."""

import shutil

import pytest

import pipeline
from pipeline.cli.main import main
from pipeline.config import Config, EngineConfig, RunConfig
from pipeline.errors import ConfigurationError
from pipeline.screening.ending import gather_run
from pipeline.study.drenet import load_checkpoint
from pipeline.study.engine.choice import has_int8

INT8 = '[engine]\nprecision = "int8"\n[run]\nimages_top = 0\nimages_flag_at = 2.0\n'
CONFIG = Config(engine=EngineConfig(precision="int8"), run=RunConfig(images_top=0, images_flag_at=2.0))


@pytest.fixture(scope="module")
def rounded(plain, weights, tmp_path_factory):
    """The checkpoint that says how it is rounded; None where the processor cannot, which says so."""
    out = tmp_path_factory.mktemp("rounded") / "rounded.safetensors"
    code = main(["quantise", str(weights), str(plain.archive), "--out", str(out)])
    assert (code, out.exists()) == ((0, True) if has_int8() else (1, False))
    return out if has_int8() else None


def _screen(plain, rounded, out, config=CONFIG):
    return pipeline.screen(plain.archive, rounded, out, config=config, key_file=plain.run.with_name("key"))


@pytest.fixture(scope="module")
def run(plain, rounded, tmp_path_factory):
    """The plain patients, screened in int8."""
    if rounded is None:
        return None
    out = tmp_path_factory.mktemp("int8") / "run"
    _screen(plain, rounded, out)
    return out


def test_patients_in_int8_are_near_those_in_fp32(plain, run):
    if run is None:
        return
    exact, rough = (pipeline.open_run(folder).patients.set_index("patient_key")["probability"] for folder in (plain.run, run))
    moved = (rough - exact).abs()
    assert 0 < moved.max() < 0.01
    assert 'precision = "int8"' in (run / "run.toml").read_text()


def test_a_run_in_int8_goes_on_with_the_same_numbers_and_in_no_other_precision(plain, rounded, run, tmp_path):
    if run is None:
        return
    begun = tmp_path / "run"
    shutil.copytree(run, begun)
    for journal in (begun / "journal").glob("*/*.jsonl"):
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert _screen(plain, rounded, begun).digest == gather_run(run).digest
    with pytest.raises(ConfigurationError, match=r"engine\.precision"):
        _screen(plain, rounded, begun, Config(run=CONFIG.run))


@pytest.mark.long
def test_the_digest_of_a_run_in_int8_does_not_depend_on_the_number_of_ranks(plain, rounded, run, drenet, tmp_path):
    if run is None:
        return
    (tmp_path / "int8.toml").write_text(INT8)
    asked = ("--weights", rounded, "--config", tmp_path / "int8.toml", "--out", tmp_path / "run")
    done = drenet(*plain.screen, *asked, ranks=3)
    assert done.returncode == 0, done.stdout
    assert gather_run(tmp_path / "run").digest == gather_run(run).digest


def test_the_same_archive_gives_the_same_rounding(plain, rounded, weights, tmp_path):
    if rounded is None:
        return
    assert main(["quantise", str(weights), str(plain.archive), "--out", str(tmp_path / "again.safetensors")]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == rounded.read_bytes()
    assert load_checkpoint(rounded).metadata.rounding


def test_an_archive_without_a_chest_cannot_be_measured_on(weights, tmp_path, capsys):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "notes.txt").write_text("no CT")
    out = tmp_path / "rounded.safetensors"
    assert main(["quantise", str(weights), str(tmp_path / "archive"), "--out", str(out)]) == 2
    assert "name an archive of chest CT" in capsys.readouterr().err
    assert not out.exists()
