"""Small fabricated CT series for the archive's tests, and what becomes of a folder that holds them."""

from pathlib import Path

import numpy as np
from pydicom import dcmwrite

from pipeline.archive import Decoder, read_volume
from pipeline.config import Config, SliceConfig
from pipeline.errors import StudyError
from pipeline.mpi.world import Alone
from pipeline.phantom.chest import Phantom
from pipeline.phantom.images import series
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest

KEY = bytes(32)
N_SLICES = 24
CONFIG = Config(slices=SliceConfig(count=1000))  # every slice, so that each can be looked at


def phantom(*, vendor=0, n_slices=N_SLICES, matrix=32, sharp=True):
    """A ball of tissue with two lungs, in noise; every slice differs from every other."""
    z, y, x = np.mgrid[-1 : 1 : n_slices * 1j, -1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    hu = np.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    hu[((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 + (z / 1.2) ** 2 < 1] = -850
    hu[(x + 0.1) ** 2 + (y - 0.6) ** 2 < 0.02] = 1500  # bone above 1023 HU: what a wrong sign garbles
    hu = (hu + np.random.default_rng(1).normal(0, 20, hu.shape)).clip(-1000, 3000)
    empty = np.zeros(hu.shape, bool)
    z_mm = np.arange(n_slices) * 8.0
    return Phantom(np.rint(hu).astype(np.int16), empty, empty, empty, z_mm, (10.0, 10.0), vendor, sharp)


def images(name="1", **options):
    """The slices of one sound series as data sets."""
    kind = options.pop("kind", "axial")
    return series(phantom(**options), name, kind=kind)


def write(folder: Path, data_sets, suffix=".dcm", start=0):
    """Each data set as a file of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, data in enumerate(data_sets, start):
        paths.append(folder / f"{number:04d}{suffix}")
        dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths


def indexed(archive: Path, config=CONFIG):
    """(manifest, studies) of a folder."""
    private = archive.with_name(archive.name + "-private")
    private.mkdir(exist_ok=True)
    index(Alone(), archive, Private(private, KEY), config)
    manifest = read_manifest(private)
    return manifest, [manifest.study(n) for n in range(len(manifest.entries))]


def left_out(manifest):
    """Files outside any study, by reason."""
    return {event.code: event.count for event in manifest.heading.events if event.scope == "file"}


def verdict(archive: Path):
    """(reason or "", warnings) of the only study in a folder, after reading every slice of its first candidate."""
    _, (study,) = indexed(archive)
    if not study.candidates:
        return study.reason, set()
    warnings = {event.code for event in study.candidates[0].events}
    warnings |= {event.code for event in study.events if event.scope == "study"}
    try:
        hu_of(archive, study)
    except StudyError as error:
        return error.reason.value, warnings
    return "", warnings


def hu_of(archive: Path, study, place=0):
    """HU of every slice of a candidate [slice, row, column]."""
    candidate = study.candidates[place]
    with Decoder() as decoder:
        return read_volume(archive, candidate, range(len(candidate.slices)), decoder).hu
