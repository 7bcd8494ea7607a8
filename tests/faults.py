"""`python tests/faults.py FAULT drenet-arguments...`: drenet with one fault built in, for the tests of what then happens."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.cli import main
from pipeline.errors import Reason, StorageError, StudyError
from pipeline.mpi.launched import launched_rank
from pipeline.run.journal import Journal
from pipeline.study import screener, within


def storage_of_last_rank_fails_at_second_study():
    append, appended = Journal.append, []

    def failing(self, line):
        appended.append(line)
        if sum(line.result is not None for line in appended) == 2:
            raise StorageError("no space left: free some and start the same command again")
        append(self, line)

    if launched_rank() == int(os.environ["LAST_RANK"]):
        Journal.append = failing


def first_read_of_every_study_fails():
    read = within.read_volume
    marks = Path(os.environ["MARKS"])  # one folder for all ranks: a study may be tried again on another

    def failing(root, series, wanted, decoder, *like):
        mark = marks / series.series_key
        if not mark.exists():
            mark.touch()
            raise StudyError(Reason.IO_ERROR, "decode")
        return read(root, series, wanted, decoder, *like)

    within.read_volume = failing


def every_read_fails():
    def failing(*_):
        raise StudyError(Reason.IO_ERROR, "decode")

    within.read_volume = failing


def every_study_meets_a_bug():
    def failing(*_):
        raise ValueError("CANARY in a message")

    screener.prepare = failing


def the_report_meets_a_bug():
    import pipeline.report

    def failing(*_):
        raise ValueError("CANARY in a message")

    pipeline.report.write_report = failing


def one_study_crashes_its_rank():
    """The first study met, by whatever rank, is the one from then on."""
    line, victim = screener.Screener.line, Path(os.environ["VICTIM"])

    def deadly(self, dealt):
        if not victim.read_text():
            victim.write_text(dealt.study.study_key)
        if victim.read_text() == dealt.study.study_key:
            os.kill(os.getpid(), signal.SIGSEGV)
        return line(self, dealt)

    screener.Screener.line = deadly


def every_study_takes_long():
    read = screener.Preparer._prepared

    def prepared(self, study, series, watch):
        Path(os.environ["BEGUN"]).touch()
        for _ in range(100):
            with watch.stage("read"):
                time.sleep(0.1)
        return read(self, study, series, watch)

    screener.Preparer._prepared = prepared


def every_study_takes_a_week_by_its_own_account():
    line = screener.Screener.line

    def slow(self, dealt):
        made = line(self, dealt)
        made.seconds["infer"] = 7 * 86400.0
        return made

    screener.Screener.line = slow


def one_rank_is_killed_once():
    line, victim = screener.Screener.line, Path(os.environ["VICTIM"])

    def deadly(self, dealt):
        if not victim.read_text():
            victim.write_text(dealt.study.study_key)
            os.kill(os.getpid(), signal.SIGSEGV)
        return line(self, dealt)

    screener.Screener.line = deadly


def every_study_takes_longer():
    line = screener.Screener.line

    def slow(self, dealt):
        for _ in range(int(float(os.environ["LONGER_S"]) * 20)):
            time.sleep(0.05)
            self._tick()
        made = line(self, dealt)
        made.seconds["read"] += float(os.environ["LONGER_S"])
        return made

    screener.Screener.line = slow


def die_in_training():
    """As a kill does: no clean-up, in the middle of the second epoch, some steps after the last checkpoint."""
    from pipeline.training.fit import Trainer

    step = Trainer.step

    def dying(self, epoch, number, micro_batches):
        if (epoch, number) == (1, 2):
            os._exit(9)
        return step(self, epoch, number, micro_batches)

    Trainer.step = dying


if __name__ == "__main__":
    globals()[sys.argv.pop(1)]()
    sys.exit(main())
