"""Files are whole or absent, and a failure to write one says who must act."""

import errno

import pytest

from pipeline.errors import ConfigurationError, StorageError
from pipeline.files import storage_error, write_whole


def test_a_file_is_whole_or_absent(tmp_path):
    def broken():
        yield b"half"
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(StorageError, match="space"):
        write_whole(tmp_path / "x", broken())
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_the_users_to_mend(tmp_path):
    error = storage_error(OSError(errno.EROFS, "read-only"), tmp_path)
    assert isinstance(error, ConfigurationError)
    assert "--out" in str(error)


def test_a_file_that_cannot_be_written_anew_stays_as_it_was(tmp_path):
    def broken():
        yield b"half"
        raise OSError(errno.EIO, "worn out")

    write_whole(tmp_path / "x", b"before", mode=0o600)
    with pytest.raises(StorageError, match="start the same command again"):
        write_whole(tmp_path / "x", broken())
    assert [(path.name, path.read_bytes(), path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [
        ("x", b"before", 0o600)
    ]
