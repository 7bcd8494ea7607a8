"""The journal is the truth: sound lines survive, torn ones are passed over, the last record wins."""

from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.records import Line, StudyResult
from pipeline.run.journal import Journal, read_lines
from pipeline.run.resume import compact, last_records, next_attempt


def _line(key, status="OK", reason=""):
    return Line(result=StudyResult(key, "P", status, reason))


def test_torn_and_damaged_lines_are_passed_over(tmp_path):
    path = tmp_path / "journal" / "0001" / "rank-00000.jsonl"
    with Journal(path) as journal:
        for key in "abc":
            journal.append(_line(key))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"b"', b'"x"') + lines[2] + lines[0][:20])
    assert [line.result.study_key for _, line in read_lines(path)] == ["a", "c"]


def test_compacting_keeps_the_last_record_of_every_study(tmp_path):
    for attempt, status in ((1, "FAILED"), (2, "OK")):
        with Journal(tmp_path / "journal" / f"{attempt:04d}" / "rank-00000.jsonl") as journal:
            journal.append(_line("a", status, "IO_ERROR" if status == "FAILED" else ""))
            journal.append(_line(f"only-{attempt}"))
    before = set(last_records(tmp_path))
    places = compact(tmp_path)
    assert set(places) == before == {"a", "only-1", "only-2"}
    assert not places["a"].transient
    assert next_attempt(tmp_path) == 3


def test_a_journal_that_finds_no_room_says_so_when_it_is_closed_too():
    """/dev/full takes nothing: what `append` could not write is tried once more by `close`."""
    with pytest.raises(StorageError), Journal(Path("/dev/full"), fsync_every_s=1e9) as journal:
        journal.append(_line("a"))
