"""What can be seen of a request before anything heavy is loaded: archive, weights, the run's folder, the key.

Every check raises ConfigurationError with the cure. What needs a network's tensors or the run's journals is looked at later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigurationError
from pipeline.files import LFS_POINTER
from pipeline.pseudonym import default_key_file, read_key
from pipeline.run.weights import Weights, check_names


def check_request(archive: Path, out: Path, weights: Sequence[Weights] = (), key_file: Path | None = None) -> None:
    """All of a run's checks."""
    check_archive(archive)
    check_apart(archive, out)
    check_writable(out)
    check_names(weights)
    for one in weights:
        check_weights(one.path)
    check_key(key_file)


def check_archive(archive: Path) -> None:
    """There is a folder to read, or a list of pictures."""
    if archive.is_dir():
        return
    from pipeline.archive import is_list

    if not (is_list(archive) and archive.is_file()):
        raise ConfigurationError(f"{archive} is no folder: name the archive's top folder, or a CSV that lists pictures")


def check_apart(archive: Path, out: Path) -> None:
    """Neither the run's folder nor the archive lies in the other: the run's own files would count as the archive's."""
    if not archive.is_dir():
        return
    top = archive.resolve()
    own = out.resolve()
    if own.is_relative_to(top):
        raise ConfigurationError(f"{out} lies within the archive, which is only read: choose another --out")
    if top.is_relative_to(own):
        raise ConfigurationError(f"the archive lies within {out}: choose another --out")


def check_writable(out: Path) -> None:
    """The run's folder can be written, or made."""
    standing = standing_folder(out)
    if not standing.is_dir():
        raise ConfigurationError(f"cannot write {out}: {standing} is no folder; choose another --out")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ConfigurationError(f"cannot write {out}: permission denied; choose another --out")


def standing_folder(folder: Path) -> Path:
    """The lowest folder on the way to `folder` that exists."""
    path = folder.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_weights(path: Path) -> None:
    """The file is there, and may be a checkpoint."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(LFS_POINTER))
    except IsADirectoryError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: it is a folder; name the file in it") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if not begins:
        raise ConfigurationError(f"the checkpoint {path} is empty (CHECKPOINT_CORRUPT): fetch it again")
    if begins == LFS_POINTER:
        raise ConfigurationError(
            f"{path} is a Git LFS pointer and not the checkpoint (CHECKPOINT_CORRUPT): git lfs pull fetches that"
        )


def check_key(named: Path | None) -> None:
    """The key that is named is there and sound; the user's own may still have to be made."""
    if named or default_key_file().exists():
        read_key(named or default_key_file())


def check_textfile(path: Path | None) -> None:
    """Raises ConfigurationError for a file that the collector would pass over, or in a folder that is not there."""
    if path is None:
        return
    if path.suffix != ".prom":
        raise ConfigurationError(f"{path}: node_exporter reads files that end in .prom only")
    if not path.parent.is_dir():
        raise ConfigurationError(f"cannot write {path}: there is no folder {path.parent}")
