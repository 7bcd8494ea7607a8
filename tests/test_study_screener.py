"""One rank's replica: what is a study's fault is its row, what is the run's is not."""

import time

import pytest

from pipeline.config import Config
from pipeline.errors import Drained, RankDied, Reason, StorageError, StudyError
from pipeline.records import DealtStudy
from pipeline.run.manifest import read_manifest
from pipeline.study.screener import Outputs, Preparer, Screener
from pipeline.study.stopwatch import Stopwatch
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


def test_what_was_seen_of_a_study_is_handed_back_and_the_next_study_finds_nothing_of_it(plain):
    manifest = read_manifest(plain.run / "private")
    with Preparer(plain.archive, Config()) as preparer:
        kept = set(vars(preparer))
        seen = [preparer.best(manifest.study(number)) for number in (0, 1, 0)]
        assert set(vars(preparer)) == kept
    assert (seen[0].volume.hu == seen[2].volume.hu).all()
    assert (seen[0].prepared.images == seen[2].prepared.images).all()
    assert seen[0].series.series_key != seen[1].series.series_key


def test_a_stage_is_announced_and_its_seconds_are_those_of_the_study_that_it_belongs_to():
    told, ticks = [], []
    watch = Stopwatch(told.append, lambda: ticks.append(1))
    for name in ("read", "lung", "read"):
        with watch.stage(name):
            pass
    with pytest.raises(StudyError), watch.stage("infer"):
        raise StudyError(Reason.NONFINITE_OUTPUT, "infer")
    assert told == ["read", "lung", "read", "infer"]
    assert set(watch.seconds) == {"read", "lung"}
    assert len(ticks) == 3
    assert Stopwatch().seconds == {}
