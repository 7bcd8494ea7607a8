"""Walk and containers: nothing hangs, loops, leaves the archive or is lost."""

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.archive import list_folder, scan_file
from pipeline.archive import walk as walking
from pipeline.config import Config, SeriesConfig
from pipeline.errors import StudyError
from pipeline.phantom.images import to_bytes
from tests.fabricate import CONFIG, hu_of, images, indexed, left_out, phantom, write
from tests.tools import environment, program

ROOT = Path(__file__).parents[1]


def reasons(root):
    """{portable path: reason or "read"} of one folder's files."""
    _, files, _ = list_folder(root, "")
    return {file.path: scan_file(root, file).records[0].reason or "read" for file in files}


def test_pipes_devices_and_dangling_links_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert reasons(tmp_path) == {"fifo": "NOT_REGULAR_FILE", "zero": "NOT_REGULAR_FILE", "gone": "FILE_VANISHED"}


def test_a_file_that_became_a_pipe_after_it_was_listed_does_not_hang(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    _, (file,), _ = list_folder(tmp_path, "")
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    assert scan_file(tmp_path, file).records[0].reason == "NOT_REGULAR_FILE"


def test_a_file_that_vanished_after_it_was_listed_is_recorded(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    _, (file,), _ = list_folder(tmp_path, "")
    (tmp_path / "x").unlink()
    assert scan_file(tmp_path, file).records[0].reason == "FILE_VANISHED"


def test_links_within_the_archive_or_back_to_it_are_not_followed(tmp_path):
    archive = tmp_path / "up" / "a"
    write(archive / "ct", images())
    (archive / "self").symlink_to(archive)
    (archive / "ct" / "up").symlink_to(archive.parent)
    (archive / "again").symlink_to(archive / "ct")
    (archive / "x").symlink_to("y")
    (archive / "y").symlink_to("x")
    manifest, (study,) = indexed(archive)
    assert study.n_files == 24
    assert left_out(manifest) == {"SYMLINK_LOOP": 5}


def test_a_folder_linked_in_from_elsewhere_is_followed_once(tmp_path):
    archive, elsewhere = tmp_path / "a", tmp_path / "elsewhere"
    archive.mkdir()
    write(elsewhere, images())
    (elsewhere / "back").symlink_to(archive)
    (elsewhere / "itself").symlink_to(elsewhere)
    (archive / "linked").symlink_to(elsewhere)
    manifest, (study,) = indexed(archive)
    assert study.n_files == 24
    assert left_out(manifest) == {"SYMLINK_LOOP": 2}
    assert hu_of(archive, study).shape[0] == 24


def test_file_names_of_any_bytes_are_carried_safely(tmp_path):
    archive = tmp_path / "a"
    paths = write(archive, images())
    paths[0].rename(archive / os.fsdecode(b"\xff\xe9 \n%41.dcm"))
    paths[1].rename(archive / '=cmd|\' ,"x".dcm')
    _, (study,) = indexed(archive)
    assert study.n_files == 24
    assert all(source.path.isascii() and source.path.isprintable() for source in study.candidates[0].slices)
    assert hu_of(archive, study).shape[0] == 24


def test_what_may_not_be_read_is_recorded_as_denied(tmp_path):
    archive = tmp_path / "a"
    write(archive / "ct", images())
    (archive / "ct" / "0003.dcm").chmod(0)
    (archive / "closed").mkdir(mode=0)
    for folder in archive.parents:
        if folder.stat().st_mode & 0o077 == 0 and folder.owner() == archive.owner():
            folder.chmod(0o755)  # pytest closes its folders to others
    command = [*program("scan_as_nobody"), archive]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    folder, files = done.stdout.splitlines()
    assert folder == "PERMISSION_DENIED"
    assert files == ",,," + "PERMISSION_DENIED" + "," * 20


def test_a_folder_that_cannot_be_listed_is_noted_and_counts_as_no_file(tmp_path, monkeypatch):
    write(tmp_path / "a", images())
    (tmp_path / "a" / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "denied")
        return scandir(path)

    monkeypatch.setattr(walking.os, "scandir", closed)
    manifest, (study,) = indexed(tmp_path / "a")
    assert [(event.scope, event.code) for event in manifest.heading.events] == [("run", "PERMISSION_DENIED")]
    assert manifest.heading.n_files == study.n_files == 24


@pytest.mark.parametrize(("n_failures", "reason"), [(2, "NOT_DICOM"), (3, "IO_ERROR")])
def test_storage_that_stumbles_is_tried_three_times(n_failures, reason, tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"some text")
    _, (file,), _ = list_folder(tmp_path, "")
    opened, failures = os.open, []

    def stumbling(*arguments, **options):
        if len(failures) < n_failures:
            failures.append(1)
            raise OSError(5, "Input/output error")
        return opened(*arguments, **options)

    monkeypatch.setattr(walking, "IO_PAUSE_S", 0.0)
    monkeypatch.setattr(walking.os, "open", stumbling)
    assert scan_file(tmp_path, file).records[0].reason == reason


def members(n=24, name="1"):
    return [(f"IM{number:03d}", to_bytes(data).getvalue()) for number, data in enumerate(images(name)[:n])]


def write_zip(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)


def write_tar(path, entries, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


WRITERS = {
    "zip": write_zip,
    "stored zip": lambda path, entries: write_zip(path, entries, zipfile.ZIP_STORED),
    "tar": write_tar,
    "tar.gz": lambda path, entries: write_tar(path, entries, "w:gz"),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_slices_in_a_container_are_read_in_place(writer, tmp_path):
    (tmp_path / "a").mkdir()
    writer(tmp_path / "a" / "container.bin", members())
    manifest, (study,) = indexed(tmp_path / "a")
    assert manifest.heading.n_files == 25
    assert left_out(manifest) == {"UNPACKED": 1}
    assert np.array_equal(hu_of(tmp_path / "a", study), phantom().hu)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x"])
@pytest.mark.parametrize("writer", [WRITERS["zip"], WRITERS["tar"]], ids=["zip", "tar"])
def test_a_member_that_would_leave_the_container_is_refused(writer, name, tmp_path):
    (tmp_path / "a").mkdir()
    writer(tmp_path / "a" / "c", [*members(), (name, b"x")])
    manifest, (study,) = indexed(tmp_path / "a")
    assert left_out(manifest) == {"UNPACKED": 1, "ZIP_SLIP": 1}
    assert study.n_files == 24


def test_links_in_containers_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with tarfile.open(tmp_path / "a" / "c.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"link{kind!r}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    with zipfile.ZipFile(tmp_path / "a" / "c.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    assert left_out(indexed(tmp_path / "a")[0]) == {"UNPACKED": 2, "ZIP_SLIP": 4}


def test_containers_in_containers_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for name, writer in WRITERS.items():
        writer(tmp_path / name, members(1))
    write_zip(tmp_path / "a" / "outer.zip", [(name, (tmp_path / name).read_bytes()) for name in WRITERS])
    assert left_out(indexed(tmp_path / "a")[0]) == {"UNPACKED": 1, "ARCHIVE_NESTED": 4}


def test_a_bad_checksum_costs_one_member_and_a_torn_tar_keeps_what_came_before(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_zip(tmp_path / "a" / "c.zip", members(3), zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "a" / "c.zip").read_bytes())
    data[3000] ^= 0xFF
    (tmp_path / "a" / "c.zip").write_bytes(data)
    manifest, (study,) = indexed(tmp_path / "a")
    assert left_out(manifest) == {"UNPACKED": 1, "ARCHIVE_CORRUPT": 1}
    assert study.n_files == 2
    write_tar(tmp_path / "b" / "c.tar.gz", members(6), "w:gz")
    whole = (tmp_path / "b" / "c.tar.gz").read_bytes()
    (tmp_path / "b" / "c.tar.gz").write_bytes(whole[: len(whole) * 2 // 3])
    manifest, (study,) = indexed(tmp_path / "b")
    assert left_out(manifest) == {"ARCHIVE_CORRUPT": 1}
    assert 0 < study.n_files < 6


def test_members_with_a_password_are_encrypted_not_corrupt(tmp_path):
    (tmp_path / "a").mkdir()
    write_zip(tmp_path / "a" / "c.zip", members(2), zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "a" / "c.zip").read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1  # the flag in the central directory, of the first member
    (tmp_path / "a" / "c.zip").write_bytes(data)
    assert left_out(indexed(tmp_path / "a")[0]) == {"UNPACKED": 1, "ARCHIVE_ENCRYPTED": 1}


@pytest.mark.parametrize("writer", [WRITERS["zip"], WRITERS["tar.gz"]], ids=["zip", "tar.gz"])
def test_bombs_are_stopped_by_the_bytes_that_they_grow_to(writer, tmp_path):
    (tmp_path / "a").mkdir()
    writer(tmp_path / "a" / "c", [(f"{number}", bytes(40 << 20)) for number in range(4)])
    assert "DECOMPRESSION_BOMB" in left_out(indexed(tmp_path / "a")[0])


def test_a_container_that_is_none_is_corrupt(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    assert left_out(indexed(tmp_path / "a")[0]) == {"ARCHIVE_CORRUPT": 1}


def test_a_file_changed_or_gone_since_it_was_indexed_is_noticed(tmp_path):
    paths = write(tmp_path / "a", images())
    _, (study,) = indexed(tmp_path / "a")
    os.utime(paths[3], ns=(1, 1))
    with pytest.raises(StudyError, match="FILE_VANISHED"):
        hu_of(tmp_path / "a", study)
    paths[3].unlink()
    with pytest.raises(StudyError, match="FILE_VANISHED"):
        hu_of(tmp_path / "a", study)


def png(hu):
    import cv2

    return cv2.imencode(".png", np.clip(np.rint((hu + 1000.0) / 3), 0, 255).astype(np.uint8))[1].tobytes()


def test_a_folder_of_pictures_is_a_patient_in_the_order_of_the_numbers(tmp_path):
    (tmp_path / "a" / "P1").mkdir(parents=True)
    hu = phantom(matrix=128).hu
    for number, image in enumerate(hu):
        (tmp_path / "a" / "P1" / f"img{number}.png").write_bytes(png(image))
    config = Config(slices=CONFIG.slices, series=SeriesConfig(picture_low_hu=-1000.0, picture_high_hu=-235.0))
    _, (study,) = indexed(tmp_path / "a", config)
    assert study.candidates[0].kind == "image"
    seen = hu < -280  # whiter ones are soft tissue
    assert np.abs(hu_of(tmp_path / "a", study).astype(int)[seen] - hu[seen]).max() <= 2


def test_too_few_pictures_are_an_excluded_study_and_pictures_beside_dicom_are_strays(tmp_path):
    (tmp_path / "a" / "P1").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "a" / "P1" / f"{number}.png").write_bytes(png(phantom(matrix=128).hu[number]))
    write(tmp_path / "a" / "P2", images())
    (tmp_path / "a" / "P2" / "key.png").write_bytes(png(phantom(matrix=128).hu[0]))
    manifest, studies = indexed(tmp_path / "a")
    assert sorted((study.status, study.reason, study.n_files) for study in studies) == [
        ("EXCLUDED", "TOO_FEW_SLICES", 4),
        ("READY", "", 24),
    ]
    assert left_out(manifest) == {"NOT_DICOM": 1}
    assert manifest.heading.n_files == 29


def test_a_picture_of_60000_x_60000_is_a_bomb(tmp_path):
    (tmp_path / "a").mkdir()
    data = bytearray(png(phantom().hu[0]))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "a" / "x.png").write_bytes(data)
    assert left_out(indexed(tmp_path / "a")[0]) == {"DECOMPRESSION_BOMB": 1}
