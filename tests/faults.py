"""`python tests/faults.py FAULT drenet-arguments...`: drenet with one fault built in, for the tests of what then happens."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline import study
from pipeline.cli import main
from pipeline.errors import Reason, StorageError, StudyError
from pipeline.launch import launched_rank
from pipeline.store import Journal


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
    read = study.read_volume
    marks = Path(os.environ["MARKS"])  # one folder for all ranks: a study may be tried again on another

    def failing(root, series, wanted, decoder):
        mark = marks / series.series_key
        if not mark.exists():
            mark.touch()
            raise StudyError(Reason.IO_ERROR, "decode")
        return read(root, series, wanted, decoder)

    study.read_volume = failing


def every_read_fails():
    def failing(*_):
        raise StudyError(Reason.IO_ERROR, "decode")

    study.read_volume = failing


def every_study_meets_a_bug():
    def failing(*_):
        raise ValueError("CANARY in a message")

    study.prepare = failing


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
