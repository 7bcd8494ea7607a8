"""`drenet quantise`: how a network is rounded to 8 bits, measured on slices of an archive and written into its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.config import Config
from pipeline.errors import ConfigurationError, StudyError
from pipeline.mpi.world import Alone
from pipeline.records import PreparedStudy, Study
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest
from pipeline.study.drenet import load_checkpoint, save_checkpoint
from pipeline.study.engine.quantise import with_rounding
from pipeline.study.screener import Preparer

log = logging.getLogger(__name__)

N_STUDIES = 8
N_SLICES = 3
"""Of each study, evenly over those that the network would see."""
ANY_KEY = bytes(32)
"""Of pseudonyms that are not kept; the same for everybody, so that the same archive gives the same numbers."""


def quantise(checkpoint: Path, archive: Path, out: Path, config: Config) -> int:
    """Write `checkpoint` as `out`, saying how it is rounded; on how many slices that was measured. Raises PipelineError."""
    network = load_checkpoint(checkpoint)
    studies = list(_drawn(archive, config))
    if not studies:
        raise ConfigurationError(f"no study of {archive} can be screened: name an archive of chest CT")
    save_checkpoint(with_rounding(network, studies), out)
    return sum(len(study.images) for study in studies)


def _drawn(archive: Path, config: Config) -> Iterator[PreparedStudy]:
    """Slices of the first studies, in the order of the manifest, that can be prepared: an order by hash, so they are any."""
    with TemporaryDirectory(prefix="drenet-") as folder, Preparer(archive, config) as preparer:
        private = Path(folder)
        index(Alone(), archive, Private(private, ANY_KEY), config)
        manifest = read_manifest(private)
        ready = (manifest.study(number) for number, entry in enumerate(manifest.entries) if entry.status == "READY")
        yield from islice(_prepared(preparer, ready), N_STUDIES)


def _prepared(preparer: Preparer, studies: Iterable[Study]) -> Iterator[PreparedStudy]:
    for study in studies:
        try:
            prepared = preparer.best(study).prepared
        except StudyError as error:
            log.warning("study %s is passed over: %s", study.study_key, error.reason)
            continue
        yield _spread(prepared)


def _spread(prepared: PreparedStudy) -> PreparedStudy:
    """N_SLICES of it, or all where there are fewer, as far apart from each other as from the ends."""
    n = len(prepared.images)
    rows = np.unique(np.linspace(0, n - 1, N_SLICES + 2).round().astype(int)[1:-1])
    return replace(prepared, images=prepared.images[rows], zoom=prepared.zoom[rows], lung=prepared.lung[rows])
