"""At any size: nothing is read more often than it must be, and what is spared by notes is what reading would have said.

Growth is held by counting the work, not by time; `python -m benchmarks.scale` measures.
"""

import csv
import hashlib
import io
import json
import math
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest

from benchmarks import scale
from pipeline import open_run
from pipeline.errors import ConfigurationError
from pipeline.run import journal as store
from pipeline.run.gather import gather, payload_digest
from pipeline.run.journal import journal_files, notes_of
from pipeline.run.manifest import read_manifest
from pipeline.run.paths import MANIFEST_HEADS
from pipeline.run.resume import compact, last_records, noted_records
from pipeline.run.status import read_status
from tests.fabricate_run import NETWORK

N = 150
FACTS = ("manufacturer", "model", "kernel", "slice_thickness_mm", "kvp", "spacing_between_mm", "z_extent_mm", "n_slices")


@pytest.fixture(autouse=True)
def _few_ranks(monkeypatch):
    """Of four ranks and twenty different records: each rank's journal is synced, which takes its time."""
    monkeypatch.setattr(scale, "N_RANKS", 4)
    monkeypatch.setattr(scale, "N_DIFFERENT", 20)


def made(run, n=N):
    """A run of `n` fabricated studies, not yet gathered."""
    run.mkdir()
    scale.manifest(run, n)
    scale.journals(run, n)
    return run


@pytest.fixture
def read(monkeypatch):
    """Counts the journals' lines and bytes that are decoded."""
    counts, decoded = Counter(), store.decoded

    def counted(raw, decoder):
        counts.update(lines=1, bytes=len(raw))
        return decoded(raw, decoder)

    monkeypatch.setattr(store, "decoded", counted)
    return counts


def journal_bytes(run):
    return sum(path.stat().st_size for path in journal_files(run))


def test_a_resume_with_nothing_to_do_reads_every_byte_of_the_journals_once(tmp_path, read):
    run = made(tmp_path / "run")
    size = journal_bytes(run)
    scale.resume(run, N)
    assert read["bytes"] == size


def test_merging_attempts_reads_what_it_merges_twice_and_the_rest_once(tmp_path, read):
    run = made(tmp_path / "run")
    scale.resume(run, N)
    read.clear()
    size = journal_bytes(run)
    places = compact(run)
    assert read["bytes"] <= 2 * size
    assert places == last_records(run) == noted_records(run)
    assert [path.name for path in journal_files(run)] == ["root.jsonl", "zz-compacted.jsonl"]


def test_a_status_reads_no_journal_that_has_notes_and_says_what_reading_says(tmp_path, read):
    run = made(tmp_path / "run")
    noted = read_status(run)
    assert read["lines"] == 0
    for path in journal_files(run):
        notes_of(path).unlink()
    assert read_status(run) == noted
    assert read["bytes"] == journal_bytes(run)


@pytest.mark.parametrize("stage", ["gather", "report"])
def test_twice_the_studies_are_twice_the_work(stage, tmp_path, read):
    work = []
    for n in (N, 2 * N):
        run = made(tmp_path / str(n), n)
        gather(run, [NETWORK])
        if stage == "report":
            read.clear()
            scale.report(run, n)
        work.append(read["lines"])
        read.clear()
    assert work == ([2 * N + 2, 4 * N + 2] if stage == "gather" else [0, 0])


def _no_notes(path):
    path.unlink()


def _torn(path):
    path.write_bytes(path.read_bytes()[:-20])


def _a_gap(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))


def _zeros(path):
    path.write_bytes(path.read_bytes()[:50] + bytes(200))


def _of_more_than_there_is(path):
    path.write_bytes(path.read_bytes() + b'[99999999,50,"S","OK"]\n')


@pytest.mark.parametrize("damage", [_no_notes, _torn, _a_gap, _zeros, _of_more_than_there_is])
def test_what_notes_do_not_cover_is_read_from_the_journal(damage, tmp_path):
    run = made(tmp_path / "run")
    for path in journal_files(run)[:3]:
        damage(notes_of(path))
    assert noted_records(run) == last_records(run)


def test_a_record_that_a_watcher_wrote_after_the_notes_counts(tmp_path):
    run = made(tmp_path / "run")
    path = journal_files(run)[1]
    last = path.read_bytes().splitlines(keepends=True)[-1]
    with path.open("ab") as file:
        file.write(last[:100] + b"\n" + store.encode(store.Line(result=scale.result_of(10**6 + 9, []))))
    assert scale.key_of(10**6 + 9) in noted_records(run)
    assert noted_records(run) == last_records(run)


def test_a_journal_of_an_older_version_has_no_notes_and_is_gathered_the_same(tmp_path):
    new, old = made(tmp_path / "new"), made(tmp_path / "old")
    for path in journal_files(old):
        notes_of(path).unlink()
    assert gather(new, [NETWORK]).digest == gather(old, [NETWORK]).digest
    for name in ("results.h5", "studies.csv", "patients.csv", "exclusions.csv", "slices.parquet"):
        assert (new / name).read_bytes() == (old / name).read_bytes(), name


def plain_results(run):
    """Every study's result as plain JSON, in order of study_key."""
    lines = [line.rpartition(b"\t")[0] for path in journal_files(run) for line in path.read_bytes().splitlines()]
    results = [line["result"] for line in map(json.loads, lines) if line["result"]]
    return sorted(results, key=lambda result: result["study_key"])


def plain_csv(head, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue().encode()


def plain_tables(results):
    """studies.csv, patients.csv and exclusions.csv, computed the simple way."""
    studies, exclusions, patients = [], [("file", "", "walk", "NOT_DICOM", 7)], defaultdict(list)
    for r in results:
        facts = ["" if r["facts"][name] is None else r["facts"][name] for name in FACTS]
        chance = repr(r["probabilities"][0]) if r["probabilities"] else ""
        head = (r["study_key"], r["patient_key"], r["status"], r["reason"], ";".join(r["warnings"]), chance)
        studies.append((*head, len(r["slices"]), r["n_files"], r["label"], r["series_key"], *facts))
        exclusions += [(e["scope"], r["study_key"], e["stage"], e["code"], e["count"]) for e in r["events"]]
        patients[r["patient_key"]].append(r)
    pooled = []
    for key, members in sorted(patients.items()):
        scores = [s["predictions"][0]["probability"] for r in members for s in r["slices"]]
        scored = [r for r in members if r["slices"]]
        label = next((r["label"] for r in members if r["label"]), "")
        mean = repr(math.fsum(scores) / len(scores)) if scores else ""
        pooled.append((key, mean, len(scores), len(scored), len(members) - len(scored), label))
    head = ("study_key", "patient_key", "status", "reason", "warnings", "probability", "n_slices_scored", "n_files")
    counts = ("n_slices_scored", "n_studies_scored", "n_studies_not_scored", "label")
    return [
        plain_csv((*head, "label", "series_key", *FACTS), studies),
        plain_csv(("patient_key", "probability", *counts), pooled),
        plain_csv(("scope", "study_key", "stage", "code", "count"), exclusions),
    ]


def plain_columns(results):
    """Every data set of results.h5 as (name, array), computed the simple way."""
    slices = [(number, s) for number, r in enumerate(results) for s in r["slices"]]
    details = [(n, place, d) for n, (_, s) in enumerate(slices) for place, d in enumerate(s["predictions"][0]["details"])]
    events = [(number, e) for number, r in enumerate(results) for e in r["events"]]
    first = np.cumsum([0, *(len(r["slices"]) for r in results)])[:-1]
    edges = ("top", "left", "bottom", "right")
    columns = {"details/slice": ("i8", [n for n, _, _ in details]), "details/network": ("i2", [0 for _ in details])}
    columns["details/rank"] = ("i2", [place for _, place, _ in details])
    for name in ("score", "attention", "probability", "lung_fraction"):
        columns[f"details/{name}"] = ("f4", [d[name] for _, _, d in details])
    for name, source in (("box", "box"), ("box_original", "original")):
        columns[f"details/{name}"] = ("f4", [[d[source][edge] for edge in edges] for _, _, d in details])
    columns["events/study"] = ("i8", [number for number, _ in events])
    for name, kind in (("scope", "S8"), ("stage", "S8"), ("code", "S32"), ("count", "i4")):
        columns[f"events/{name}"] = (kind, [event[name] for _, event in events])
    columns["slices/study"] = ("i8", [number for number, _ in slices])
    for name, kind in (("slice_index", "i4"), ("z_mm", "f8"), ("lung_area_mm2", "f8")):
        columns[f"slices/{name}"] = (kind, [s[name] for _, s in slices])
    columns["slices/probability"] = ("f8", [s["predictions"][0]["probability"] for _, s in slices])
    for name, kind in (
        ("study_key", "S26"),
        ("patient_key", "S26"),
        ("series_key", "S26"),
        ("status", "S16"),
        ("reason", "S32"),
    ):
        columns[f"studies/{name}"] = (kind, [r[name] for r in results])
    columns["studies/n_files"] = ("i4", [r["n_files"] for r in results])
    columns["studies/first_slice"] = ("i8", first)
    columns["studies/n_slices_scored"] = ("i4", [len(r["slices"]) for r in results])
    columns["studies/probability"] = ("f8", [r["probabilities"][0] if r["probabilities"] else math.nan for r in results])
    columns["studies/warnings"] = ("O", [";".join(r["warnings"]) for r in results])
    columns["studies/label"] = ("O", [r["label"] for r in results])
    for name in FACTS:
        kind = "O" if name in ("manufacturer", "model", "kernel") else "i4" if name == "n_slices" else "f8"
        columns[f"studies/{name}"] = (kind, [math.nan if r["facts"][name] is None else r["facts"][name] for r in results])
    for name, value in plain_network().items():
        columns[f"networks/{name}"] = ("f8" if name == "threshold" else "O", [value])
    return [(name, np.array(values, kind)) for name, (kind, values) in sorted(columns.items())]


def plain_network():
    """The row of NETWORK."""
    told = {"column": "probability", "above": "", "task": "", "classes": "negative;positive", "positive": "positive"}
    return {**told, "threshold": math.nan, "sha256": "0" * 64, "meaning": "none: invented numbers"}


@pytest.mark.parametrize("n", [N, 1100])  # the second is more than one batch of everything
def test_the_payload_is_that_of_a_plain_recomputation(n, tmp_path):
    run = made(tmp_path / "run", n)
    summary = gather(run, [NETWORK])
    results = plain_results(run)
    total = hashlib.sha256()
    for name, values in plain_columns(results):
        total.update(f"{name} {values.dtype} {values.shape}".encode())
        for start in range(0, len(values), 65536):
            block = values[start : start + 65536]
            total.update(json.dumps(block.tolist(), separators=(",", ":")).encode() if values.dtype == "O" else block.tobytes())
    for name, expected in zip(("studies", "patients", "exclusions"), plain_tables(results), strict=True):
        assert (run / f"{name}.csv").read_bytes() == expected, name
        total.update(expected)
    assert summary.digest == payload_digest(run) == total.hexdigest()
    assert summary.by_status == dict(Counter(result["status"] for result in results))
    rows = [(r["study_key"], s["slice_index"]) for r in results for s in r["slices"]]
    slices = open_run(run).slices
    assert list(zip(slices["study_key"], slices["slice_index"], strict=True)) == rows


def test_the_manifest_is_the_same_with_and_without_its_heads(tmp_path):
    run = made(tmp_path / "run")
    quick = read_manifest(run / "private")
    (run / "private" / MANIFEST_HEADS).unlink()
    assert read_manifest(run / "private") == quick
    assert quick.study(7) == scale.study_of(next(n for n in range(N) if scale.key_of(n) == quick.entries[7].study_key))


def test_heads_of_another_manifest_are_not_believed(tmp_path):
    for name, n in (("one", N), ("two", N + 1)):
        (tmp_path / name).mkdir()
        scale.manifest(tmp_path / name, n)
    (tmp_path / "one" / "private" / MANIFEST_HEADS).replace(tmp_path / "two" / "private" / MANIFEST_HEADS)
    assert len(read_manifest(tmp_path / "two" / "private").entries) == N + 1


def test_a_study_whose_line_was_damaged_is_not_dealt(tmp_path):
    run = made(tmp_path / "run")
    manifest = read_manifest(run / "private")
    data = bytearray(manifest.path.read_bytes())
    place = data.index(b"patient_key", manifest.entries[3].offset) + 20
    data[place] ^= 1
    manifest.path.write_bytes(data)
    manifest.study(2)
    with pytest.raises(ConfigurationError, match="damaged"):
        manifest.study(3)


def test_gather_leaves_no_half_table_where_a_journal_changes_under_it(tmp_path, monkeypatch):
    from pipeline.run import gather as module

    run = made(tmp_path / "run")
    monkeypatch.setattr(module, "read_raw", lambda places: (b"" for _ in places))
    with pytest.raises(ConfigurationError, match="journal changed"):
        gather(run, [NETWORK])
    assert not [path.name for path in run.iterdir() if path.suffix in (".csv", ".h5") or ".csv." in path.name]


def test_growth_is_told_as_the_power_of_the_last_step():
    assert scale.exponent({1000: 5.0, 10_000: 1.0, 100_000: 10.0}) == pytest.approx(1.0)
    table = scale.as_table({"gather": {1000: {"s": 2.0, "cpu_s": 1.0, "mb": 99.0}, 2000: {"s": 9.0, "cpu_s": 4.0, "mb": 99.0}}})
    assert table.splitlines()[-1].endswith("| 2.00 |")


def test_the_highest_studies_for_dicom_are_found_with_few_records_in_memory(tmp_path):
    from pipeline.report.dicom.output import _highest

    run = made(tmp_path / "run", 2 * N)
    results = [result for result in plain_results(run) if result["slices"]]
    expected = sorted(results, key=lambda result: (-result["probabilities"][0], result["study_key"]))[:3]
    tracemalloc.start()
    found = _highest(run, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [result.study_key for result in found] == [result["study_key"] for result in expected]
    assert peak < journal_bytes(run) / 4


def test_a_note_is_written_only_once_its_record_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(store.os, "fsync", lambda _: synced.append(notes_of(path).read_bytes()))
    path = tmp_path / "journal" / "0001" / "rank-00000.jsonl"
    with store.Journal(path) as journal:
        journal.append(store.Line(result=scale.result_of(9, [])))
        assert synced == [b""]
        assert notes_of(path).read_bytes()
    with store.Journal(path.with_name("later.jsonl"), fsync_every_s=1e9) as journal:
        journal.append(store.Line(result=scale.result_of(19, [])))
        assert not notes_of(path.with_name("later.jsonl")).read_bytes()
    assert noted_records(tmp_path) == last_records(tmp_path)
    assert notes_of(path.with_name("later.jsonl")).read_bytes()
