"""One rank's replica: what is a study's fault is its row, what is the run's is not."""

import time

import pytest

from pipeline.config import Config
from pipeline.errors import Drained, RankDied, StorageError
from pipeline.records import DealtStudy
from pipeline.run.manifest import read_manifest
from pipeline.study.screener import Outputs, Screener
from tests.fabricate import images, indexed, write


@pytest.mark.parametrize("news", [RankDied("root died"), Drained("asked to stop"), StorageError("full")])
def test_what_tick_raises_amid_a_study_is_no_fault_of_the_study(news, weights, tmp_path):
    def tick():
        raise news

    write(tmp_path / "a", images())
    _, (study,) = indexed(tmp_path / "a")
    with Screener(tmp_path / "a", Config(), [weights.read_bytes()], tick=tick) as screener, pytest.raises(type(news)) as caught:
        screener.line(DealtStudy(study, ""))
    assert caught.value is news


def test_nearly_all_the_time_spent_on_a_study_belongs_to_a_stage_its_pictures_too(plain, weights, tmp_path):
    manifest = read_manifest(plain.run / "private")
    outputs = Outputs(tmp_path / "sheets", tmp_path / "images" / "x.pack")
    outputs.sheets.mkdir()
    shares = []
    with Screener(plain.archive, Config(), [weights.read_bytes()], outputs) as screener:
        for number in range(4):
            begun = time.monotonic()
            line = screener.line(DealtStudy(manifest.study(number), ""))
            shares.append(sum(line.seconds.values()) / (time.monotonic() - begun))
    assert set(line.seconds) == {"read", "lung", "prepare", "infer", "pictures"}
    assert max(shares) >= 0.97  # of a few: a busy machine may stop between two stages as well
