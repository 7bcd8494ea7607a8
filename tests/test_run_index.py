"""Indexing reads each header once in an archive's life, whatever kills it and however many ranks do it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from pipeline.archive import FileRecord, FoundFile, Header, build_study, list_folder, scan_file
from pipeline.config import Config, SliceConfig
from pipeline.errors import Drained, Reason
from pipeline.mpi.world import Alone
from pipeline.run import index as indexing
from pipeline.run import scan_cache as catalogues
from pipeline.run import scan_lines
from pipeline.run.index import IndexSource, Private, index, selection_digest
from pipeline.run.manifest import read_manifest
from pipeline.run.paths import MANIFEST, MANIFEST_HEADS
from pipeline.run.scan_cache import Catalogue
from tests.fabricate import CONFIG, KEY, hu_of, images, indexed, left_out, write
from tests.test_archive_walk_ahead import calls
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]


@pytest.fixture
def archive(tmp_path):
    """Three studies in nested folders, some files outside any."""
    for name in ("1", "2", "3"):
        write(tmp_path / "a" / "deep" / name, images(name))
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "a" / "deep" / "empty").touch()
    return tmp_path / "a"


@pytest.fixture
def reads(monkeypatch):
    """Paths of the files whose header was read."""
    read = []

    def counted(root, file, *rest):
        read.append(file.path)
        return scan_file(root, file, *rest)

    monkeypatch.setattr(indexing, "scan_file", counted)
    return read


@pytest.mark.parametrize("at_once", [7, 1000])
def test_indexing_again_reads_only_what_is_new_or_changed(at_once, archive, reads, monkeypatch):
    monkeypatch.setattr(catalogues, "AT_ONCE", at_once)
    before, _ = indexed(archive)
    assert len(reads) == 3 * 24 + 1
    reads.clear()
    assert indexed(archive)[0].sha256 == before.sha256
    assert reads == []
    os.utime(archive / "deep" / "1" / "0005.dcm", ns=(5, 5))
    write(archive / "new", images("4"))
    manifest, studies = indexed(archive)
    assert sorted(reads) == ["deep/1/0005.dcm", *(f"new/{number:04d}.dcm" for number in range(24))]
    assert len(studies) == 4
    assert manifest.heading.n_files == 4 * 24 + 2


def test_what_vanished_is_not_indexed_any_more(archive, reads):
    indexed(archive)
    shutil.rmtree(archive / "deep" / "2")
    manifest, studies = indexed(archive)
    assert len(studies) == 2
    assert manifest.heading.n_files == 2 * 24 + 2


def test_reasons_that_may_pass_are_looked_at_again(archive, reads, monkeypatch):
    monkeypatch.setattr(catalogues, "AGAIN", catalogues.AGAIN | {"NOT_DICOM"})
    indexed(archive)
    reads.clear()
    indexed(archive)
    assert reads == ["notes.txt"]


class Worker:
    """Ranks that take turns; the archive's tasks come back in another order than they were given."""

    def __init__(self, source, root, size, *, stop_after=10**9):
        self.source, self.root, self.size, self.left = source, root, size, stop_after

    def work(self):
        held = {rank: [] for rank in range(self.size)}
        while not self.source.finished and self.left > 0:
            for rank in reversed(range(self.size)):
                held[rank] += self.source.give(rank)
                if held[rank] and self.left > 0:
                    self.left -= 1
                    self.source.report(rank, indexing._work(self.root, held[rank].pop(), lambda: None))


class Several(Alone):
    """A world whose deal is worked by `Worker`s."""

    def __init__(self, size, *, stop_after=10**9):
        self.n, self.stop_after = size, stop_after

    def deal(self, source, **_):
        Worker(source, self.root, self.n, stop_after=self.stop_after).work()
        yield from ()


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_manifest_does_not_depend_on_the_number_of_ranks(size, archive, tmp_path):
    alone, _ = indexed(archive)
    world = Several(size)
    world.root = archive
    (tmp_path / "other").mkdir()
    index(world, archive, Private(tmp_path / "other", KEY), CONFIG)
    assert (tmp_path / "other" / MANIFEST).read_bytes() == alone.path.read_bytes()


@pytest.mark.parametrize("stop_after", [1, 2, 4, 6])
def test_an_index_stopped_half_way_goes_on_where_it_stopped(stop_after, archive, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(indexing, "BATCH", 10)
    world = Several(2, stop_after=stop_after)
    world.root = archive
    private = tmp_path / "a-private"
    private.mkdir()
    with pytest.raises(Drained):
        index(world, archive, Private(private, KEY), CONFIG)
    assert not (private / MANIFEST).exists()
    indexed(archive)
    assert len(reads) == len(set(reads)) == 3 * 24 + 1


def test_a_line_torn_by_a_kill_is_read_again_and_harms_no_other(archive, tmp_path, reads):
    before, _ = indexed(archive)
    scan = next((tmp_path / "a-private").glob("scan-*.jsonl"))
    scan.write_bytes(scan.read_bytes()[:-150])
    reads.clear()
    assert indexed(archive)[0].sha256 == before.sha256
    assert len(reads) <= 1
    reads.clear()
    assert indexed(archive)[0].sha256 == before.sha256
    assert reads == []


def test_a_line_torn_by_a_kill_is_no_reading_even_when_the_next_start_was_killed_too(archive, tmp_path, reads):
    before, _ = indexed(archive)
    scan = next((tmp_path / "a-private").glob("scan-*.jsonl"))
    scan.write_bytes(scan.read_bytes()[:-150])
    Catalogue(tmp_path / "a-private").__enter__().__exit__()
    assert scan.read_bytes().endswith(b"\n")
    reads.clear()
    assert indexed(archive)[0].sha256 == before.sha256
    assert len(reads) == 1


@pytest.fixture
def built(monkeypatch):
    """UIDs of the studies that were built of their files' records."""
    uids = []

    def counted(uid, *rest):
        uids.append(uid)
        return build_study(uid, *rest)

    monkeypatch.setattr(indexing, "build_study", counted)
    return uids


def afresh(archive, config=CONFIG):
    """The manifest of an index that knows nothing."""
    with TemporaryDirectory() as folder:
        index(Alone(), archive, Private(Path(folder), KEY), config)
        return (Path(folder) / MANIFEST).read_bytes()


def added(archive):
    write(archive / "more", images("2", n_slices=30)[24:])


@pytest.mark.parametrize(
    ("change", "n_built"),
    [
        (lambda _: None, 0),
        (lambda archive: os.utime(archive / "deep" / "1" / "0005.dcm", ns=(5, 5)), 1),
        (lambda archive: (archive / "deep" / "1" / "0005.dcm").unlink(), 1),
        (lambda archive: (archive / "deep" / "1" / "0005.dcm").rename(archive / "deep" / "0005.dcm"), 1),
        (lambda archive: shutil.copy(archive / "deep" / "1" / "0005.dcm", archive / "deep" / "2"), 2),  # over another's
        (lambda archive: shutil.rmtree(archive / "deep" / "3"), 0),
        (added, 1),
        (lambda archive: write(archive / "new", images("4")), 1),
        (lambda archive: (archive / "notes.txt").unlink(), 0),
    ],
)
def test_a_study_is_built_again_where_one_of_its_files_is_new_changed_or_gone(change, n_built, archive, built):
    indexed(archive)
    assert len(built) == 3
    change(archive)
    built.clear()
    manifest, _ = indexed(archive)
    assert len(built) == n_built
    assert manifest.path.read_bytes() == afresh(archive)
    assert read_manifest(manifest.path.parent) == without_heads(manifest)


def without_heads(manifest):
    manifest.path.with_name(MANIFEST_HEADS).unlink()
    return read_manifest(manifest.path.parent)


def test_studies_are_built_again_under_another_key_other_settings_and_by_other_code(archive, tmp_path, built, monkeypatch):
    private = tmp_path / "p"
    private.mkdir()
    other = bytes(range(32))
    slices = Config(slices=SliceConfig(count=14))
    for key, config, code in ((KEY, CONFIG, "1"), (other, CONFIG, "1"), (other, slices, "1"), (other, slices, "2")):
        monkeypatch.setattr(indexing, "code_digest", lambda _, code=code: code)
        for n_built in (3, 0):
            built.clear()
            index(Alone(), archive, Private(private, key), config)
            assert len(built) == n_built


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_HEADS])
@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_of_a_damaged_manifest_no_study_is_taken_over(name, damage, archive, built):
    before, _ = indexed(archive)
    sound = before.path.read_bytes()
    file = before.path.with_name(name)
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-9] if damage == "short" else data[:-99].replace(b'"', b"'") + data[-99:])
    built.clear()
    assert indexed(archive)[0] == before
    assert before.path.read_bytes() == sound
    assert len(built) >= (1 if (name, damage) == (MANIFEST_HEADS, "short") else 2)


def test_each_folder_is_listed_once_by_one_rank(archive, monkeypatch):
    listed = []
    list_folder = indexing.list_folder
    monkeypatch.setattr(indexing, "list_folder", lambda root, folder: listed.append(folder) or list_folder(root, folder))
    indexed(archive)
    assert sorted(listed) == ["", "deep", "deep/1", "deep/2", "deep/3"]


def test_every_file_is_counted_once_in_a_study_or_among_the_left_out(archive):
    manifest, studies = indexed(archive)
    n_found = sum(len(files) for _, _, files in os.walk(archive))
    assert sum(study.n_files for study in studies) + sum(left_out(manifest).values()) == manifest.heading.n_files == n_found


def test_one_study_in_two_folders_and_a_container_is_one_study(archive):
    write(archive / "elsewhere", images("1"))
    _, studies = indexed(archive)
    assert sorted(study.n_files for study in studies) == [24, 24, 48]


def test_root_keeps_no_headers_in_memory(archive, tmp_path):
    indexed(archive)
    with Catalogue(tmp_path / "a-private") as catalogue:
        source = IndexSource(catalogue, 1)
        Worker(source, archive, 1).work()
        held = [value for name in ("_known", "_groups") for value in [getattr(catalogue, name)]]
    assert "StudyInstanceUID" not in repr(held)
    assert len(repr(held)) < 120 * catalogue.n_files


def test_the_private_files_are_their_owners_only(archive, tmp_path):
    indexed(archive)
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "a-private").iterdir()} == {0}


def test_nothing_that_identifies_is_logged(archive, caplog):
    (archive / "CANARYFOLDER").mkdir()
    (archive / "CANARYFOLDER" / "CANARY.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff\x13CANARY" * 40)
    (archive / "CANARYFOLDER" / "CANARY.zip").write_bytes(b"PK\x03\x04CANARY" + bytes(99))
    with caplog.at_level("DEBUG"):
        _, studies = indexed(archive)
        hu_of(archive, studies[0])
    assert "indexed" in caplog.text
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize("same_hash", [False, True])
def test_of_several_readings_of_a_file_the_last_counts_whatever_else_hashes_alike(same_hash, tmp_path, monkeypatch):
    if same_hash:
        monkeypatch.setattr(scan_lines, "hash", lambda _: 0, raising=False)
    before = [FoundFile("a", 1, 1, (FileRecord(),), ("old",)), FoundFile("b", 2, 2, (FileRecord(),), ("b",))]
    after = [FoundFile("a", 1, 9, (FileRecord(),), ("new",)), FoundFile("c", 3, 3, (FileRecord(Reason.IO_ERROR),))]
    for scan in (before, after):
        with Catalogue(tmp_path) as known:
            for found in scan:
                known.add(msgspec.json.encode(found))
    with Catalogue(tmp_path) as known:
        asked = [("a", 1, 1), ("a", 1, 9), ("b", 2, 2), ("c", 3, 3), ("d", 4, 4)]
        assert [file.path for file in known.recall([FoundFile(*one) for one in asked])] == ["a", "c", "d"]
        assert sorted(known.study_uids()) == ["b", "new"]


def test_a_manifest_is_read_back_study_by_study(archive):
    manifest, studies = indexed(archive)
    assert [entry.study_key for entry in manifest.entries] == sorted(study.study_key for study in studies)
    assert manifest.study(1) == studies[1]
    assert read_manifest(manifest.path.parent).sha256 == manifest.sha256


def test_a_manifest_of_an_older_version_serves_wherever_places_are_chosen_again():
    older = '{"count":15,"first":0.0,"last":1.0,"keep_fraction":0.4,"min_kept":1}]'  # all that it was told of the slices
    for within in ("lung", "series"):
        assert selection_digest(Config(slices=SliceConfig(within=within))).endswith(older)
    assert not selection_digest(Config(slices=SliceConfig(count=14))).endswith(older)


def test_ranks_of_mpi_index_like_one(archive, drenet, tmp_path):
    for ranks in (1, 3):
        done = drenet("index", archive, "--out", tmp_path / str(ranks), ranks=ranks)
        assert done.returncode == 0, done.stdout
    one, three = ((tmp_path / ranks / "private" / MANIFEST).read_bytes() for ranks in ("1", "3"))
    assert one == three
    assert len(one.splitlines()) == 4


def test_indexing_imports_no_pydicom_and_no_torch(archive, tmp_path):
    command = [*program("index_lightly"), archive, tmp_path / "p"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(json.loads((tmp_path / "p" / MANIFEST).read_text().splitlines()[0])["events"]) == 2


def test_of_a_large_container_only_a_studys_own_members_are_read_back(tmp_path):
    uids = [f"1.{number}" for number in range(10)]
    records = tuple(FileRecord(headers=(Header(uid, "2"),), member=f'"records":[{uid}/{k}') for k in range(30) for uid in uids)
    found = FoundFile('a"records":[.zip', 10, 1, records, tuple(uids))
    for _ in range(2):  # as it is read, and as it is recalled
        with Catalogue(tmp_path) as catalogue:
            if catalogue.recall([found]):
                catalogue.add(msgspec.json.encode(found))
            assert catalogue.n_files == 300
            assert sorted(catalogue.study_uids()) == uids
            for uid in uids:
                assert catalogue.study(uid) == [record for record in records if record.headers[0].study_uid == uid]


def test_a_file_that_is_known_costs_sixty_calls_and_its_header_none(tmp_path, reads):
    write(tmp_path / "a", images(n_slices=200))
    indexed(tmp_path / "a")
    reads.clear()
    assert calls(lambda: indexed(tmp_path / "a")) < 70 * 200
    assert reads == []


def test_root_writes_down_what_a_rank_has_read_byte_by_byte(archive, tmp_path):
    indexed(archive)
    (scan,) = (tmp_path / "a-private").glob("scan-*.jsonl")
    lines = {json.loads(line)["path"]: line for line in scan.read_bytes().splitlines()}
    _, files, _ = list_folder(archive, "deep/1")
    assert {file.path: msgspec.json.encode(scan_file(archive, file)) for file in files} == {
        file.path: lines[file.path] for file in files
    }
