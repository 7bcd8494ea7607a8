"""One rank's replica: what is a study's fault is its row, what is the run's is not."""

import pytest

from pipeline.config import Config
from pipeline.errors import Drained, RankDied, StorageError
from pipeline.records import DealtStudy
from pipeline.study.screener import Screener
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
