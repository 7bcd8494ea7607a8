"""Synthetic studies for the benchmarks: written as DICOM, indexed as a run does it."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Config
from pipeline.mpi.world import Alone
from pipeline.phantom import write_archive
from pipeline.records import DealtStudy
from pipeline.run.index import Private, index
from pipeline.run.manifest import read_manifest


def dealt_studies(archive: Path, *, studies: int, matrix: int, slices: int) -> list[DealtStudy]:
    """`studies` synthetic patients under `archive`, ready to be screened."""
    private = archive.with_name("private")
    private.mkdir()
    write_archive(archive, studies=studies, matrix=matrix, slices=slices)
    index(Alone(), archive, Private(private, bytes(32)), Config())
    manifest = read_manifest(private)
    return [DealtStudy(manifest.study(n), manifest.entries[n].digest) for n in range(studies)]
