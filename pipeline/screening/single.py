"""One study in, one result out: the answer of a run of its own, so that it is the number that a bulk run gives.

What is screened singly takes the way of every archive, through `screening.run`: index, selection, screener, journal, page.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Config, read_config
from pipeline.errors import ConfigurationError
from pipeline.mpi.world import Alone
from pipeline.records import StudyResult
from pipeline.run.plan import Request
from pipeline.run.resume import results_of
from pipeline.run.weights import Weights, weights_of
from pipeline.screening.kept import Kept
from pipeline.screening.spine import run

Source = str | Path | Sequence[str | Path]
Networks = str | Path | Weights | Sequence[str | Path | Weights]


def screen_one(
    source: Source, weights: Networks, *, config: Config | str | Path | None = None, key_file: str | Path | None = None,
    out: str | Path | None = None, kept: Kept | None = None,
) -> StudyResult:  # fmt: skip
    """The result of the one study in `source`: see `screen_few`. Raises ConfigurationError where there are several."""
    results = screen_few(source, weights, config=config, key_file=key_file, out=out, kept=kept)
    if len(results) != 1:
        raise ConfigurationError(f"there are {len(results)} studies in it: screen_few answers each")
    return results[0]


def screen_few(
    source: Source, weights: Networks, *, config: Config | str | Path | None = None, key_file: str | Path | None = None,
    out: str | Path | None = None, kept: Kept | None = None,
) -> tuple[StudyResult, ...]:  # fmt: skip
    """The results of the studies in `source`, in the order of their keys: a folder, a CSV of pictures, or one or more files.

    Files may be DICOM images, ZIP, TAR, NIfTI, or the exported slices of one patient. `out`, a new folder, is where the run's
    folder is kept, with its page, pictures and tables; otherwise nothing stays. `kept` spares loading the networks. Raises
    PipelineError; what is wrong with a study stands in its result.
    """
    settings = config if isinstance(config, Config) else read_config(Path(config) if config else None)
    with _archive(source) as archive, tempfile.TemporaryDirectory(prefix="drenet-") as own:
        folder = Path(out) if out else Path(own) / "run"
        key = Path(key_file) if key_file else None
        run(Alone(), Request(archive, _asked(weights), folder, settings, key), kept=kept)
        return results_of(folder)


def _asked(weights: Networks) -> tuple[Weights, ...]:
    return tuple(map(weights_of, [weights] if isinstance(weights, str | Path | Weights) else weights))


def _paths(named: Source) -> tuple[Path, ...]:
    return (Path(named),) if isinstance(named, str | Path) else tuple(Path(one) for one in named)


@contextmanager
def _archive(source: Source) -> Iterator[Path]:
    """A folder or a list as it stands; of files a folder of links, where those of one name lie apart."""
    paths = _paths(source)
    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".csv"):
        yield paths[0]
        return
    with tempfile.TemporaryDirectory(prefix="drenet-") as folder:
        for number, path in enumerate(paths):
            if not path.exists():
                raise ConfigurationError(f"there is no file {path}")
            link = Path(folder) / path.name
            if link.is_symlink():
                link = Path(folder) / str(number) / path.name
                link.parent.mkdir()
            link.symlink_to(path.absolute())
        yield Path(folder)
