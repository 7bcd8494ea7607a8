"""Files are whole or absent, and a failure to write one says who must act."""

import errno

import pytest

from pipeline.errors import ConfigurationError, StorageError
from pipeline.files import sealed, storage_error, unsealed, write_whole


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


def test_a_sealed_line_tells_every_tear_and_every_changed_byte():
    line = sealed(b'{"a":1}')
    assert bytes(unsealed(line)) == b'{"a":1}'
    assert [end for end in range(len(line)) if unsealed(line[:end]) is not None] == []
    changed = [line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :] for place in range(len(line))]
    assert [one for one in changed if unsealed(one) is not None] == []
