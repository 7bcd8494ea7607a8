"""From a key of the tables to the files and UIDs behind it, and back: read from `private/`, the only place that knows both.

A slice is named by its study's or series' key and its `slice_index`: KEY/INDEX. A file is named by its path, a container's
member as CONTAINER!/MEMBER. What is asked is looked for in the manifest first, which names studies, and then in the scan, which
names files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.archive import FileRecord, FoundFile, every_slice, is_list, picture_folder, read_list, root_of, volume_name
from pipeline.archive.walk import native, portable
from pipeline.errors import ConfigurationError
from pipeline.records import Series, SliceSource, Study
from pipeline.run.manifest import Manifest, read_manifest
from pipeline.run.paths import MANIFEST, PRIVATE
from pipeline.run.scan_cache import found_files


@dataclass(frozen=True, slots=True)
class Origin:
    """One image of the archive and what the tables call it. It identifies: keep it where the archive is kept.

    `series_key` is empty for a series that was no candidate; `slice_index` None for a slice that is not of a candidate, or of
    whose place an older version's manifest says nothing.
    `study_uid` and `series_uid` of pictures and NIfTI volumes are the archive's names for them; they have no `sop_uid`.
    `frame` counts from 0 in a multi-frame object, and along the stored third axis of a volume.
    """

    study_key: str
    patient_key: str
    series_key: str
    slice_index: int | None
    path: str
    member: str
    frame: int
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str = ""


def find(run: Path, key: str) -> list[Origin]:
    """All images behind `key`: a key of the tables, KEY/INDEX, a UID or a path. Raises ConfigurationError."""
    if not (run / PRIVATE / MANIFEST).exists():
        raise ConfigurationError(
            f"{run / PRIVATE} is not here, or empty: it alone knows whose key is whose, and stays where the archive is. "
            "Ask again there"
        )
    manifest = read_manifest(run / PRIVATE)
    name, index = _split(key)
    found = (_by_name(manifest, name) or _by_file(manifest, run / PRIVATE, key)) if key else []
    chosen = [one for one in found if index is None or one.slice_index == index]
    if found and not chosen:
        raise ConfigurationError(f"there is no slice {index}; slices.parquet names those that were scored")
    if not chosen:
        raise ConfigurationError(
            "no study, series, patient, slice, UID or file of that name: studies.csv and slices.parquet name the keys, KEY or "
            "KEY/INDEX; paths start at the archive"
        )
    return chosen


def _split(key: str) -> tuple[str, int | None]:
    """The key, and the slice's index behind it."""
    name, _, index = key.rpartition("/")
    return (name, int(index)) if name.isalnum() and index.isdecimal() else (key, None)


def _by_name(manifest: Manifest, name: str) -> list[Origin]:
    """What bears a key, or a study's or series' UID."""
    found: list[Origin] = []
    for study in _studies(manifest, name):
        images = list(_images(manifest, study))
        if name in (study.study_key, study.patient_key, study.study_uid):
            found += images
        elif any(lost.series_key == name for lost in study.lost):
            found += [one for one in images if not one.series_key]
        else:
            found += [one for one in images if name in (one.series_key, one.series_uid)]
    return found


def _studies(manifest: Manifest, name: str) -> Iterator[Study]:
    """Those in whose entry `name` stands."""
    sought = msgspec.json.encode(name)
    with manifest.path.open("rb") as file:
        file.readline()  # the heading
        for number, line in enumerate(file):
            if sought in line:
                yield manifest.study(number)


def _by_file(manifest: Manifest, private: Path, name: str) -> list[Origin]:
    """What an instance's UID or a path names."""
    path, member = _located(Path(manifest.heading.root), name)
    for sought in (name, path):
        for file in found_files(private, sought):
            uids = {header.study_uid for record in file.records for header in record.headers}
            names = uids | set(_named(Path(manifest.heading.root), file))
            images = [one for uid in sorted(names) for one in _by_name(manifest, uid)]
            here = str(root_of(Path(manifest.heading.root)) / native(file.path))
            chosen = [one for one in images if one.sop_uid == name or (file.path == path and one.path == here)]
            if member:
                chosen = [one for one in chosen if one.member == member]
            if chosen:
                return chosen
    return []


def _located(root: Path, name: str) -> tuple[str, str]:
    """(path below the archive's top as the manifest writes it, member) of what the user calls a file."""
    text, _, member = name.partition("!/")
    top = root_of(root).resolve()
    path = Path(text)
    for candidate in (path, path.resolve()):
        if candidate.is_relative_to(top):
            path = candidate.relative_to(top)
            break
    return portable(str(path)), member


def _named(root: Path, file: FoundFile) -> Iterator[str]:
    """The names of the studies of a picture or a volume."""
    for record in file.records:
        if record.volume:
            yield volume_name(record.volume, record.member)
        elif record.picture and is_list(root):
            yield from (row.patient for row in read_list(root) if row.file == file.path)
        elif record.picture:
            yield picture_folder(record.picture)


def _images(manifest: Manifest, study: Study) -> Iterator[Origin]:
    """Every image of a study: those of the scan, and the slices of volumes."""
    root = Path(manifest.heading.root)
    read = {(s.path, s.member, s.frame): (series, s.place) for series in study.candidates for s in every_slice(series)}
    of_series = {series.series_uid: series for series in study.candidates}
    met = set()
    for source, series_uid, sop_uid in _scanned(manifest, study):
        address = source.path, source.member, source.frame
        series, index = read.get(address, (of_series.get(series_uid), None))
        met.add(address)
        yield _origin(root, study, series, source, (index, series_uid, sop_uid))
    for series in study.candidates:
        for source in every_slice(series):
            if (source.path, source.member, source.frame) not in met:
                yield _origin(root, study, series, source, (source.place, series.series_uid, ""))


def _scanned(manifest: Manifest, study: Study) -> Iterable[tuple[SliceSource, str, str]]:
    """(where, series UID, instance UID) of every image that the scan knows of a study, in the order of their slices."""
    private = manifest.path.parent
    if study.candidates and study.candidates[0].kind == "nifti":
        return []
    root = Path(manifest.heading.root)
    if is_list(root):
        rows = {row.file for row in read_list(root) if row.patient == study.study_uid}
        files = [file for path in sorted(rows) for file in found_files(private, path) if file.path == path]
        return [(record.picture, study.study_uid, "") for file in files for record in file.records if record.picture]
    found = []
    for file in found_files(private, study.study_uid):
        for record in file.records:
            found += _images_of(record, study.study_uid)
    return sorted(found, key=lambda one: (one[0].path, one[0].member, one[0].frame))


def _images_of(record: FileRecord, name: str) -> list[tuple[SliceSource, str, str]]:
    if record.picture and picture_folder(record.picture) == name:
        return [(record.picture, name, "")]
    if record.volume and volume_name(record.volume, record.member) == name:
        return [(record.volume.source, name, "")]
    return [(one.source, one.series_uid, one.sop_uid) for one in record.headers if one.study_uid == name]


def _origin(root: Path, study: Study, series: Series | None, source: SliceSource, about: tuple[int | None, str, str]) -> Origin:
    index, series_uid, sop_uid = about
    return Origin(
        study.study_key,
        study.patient_key,
        series.series_key if series else "",
        index,
        str(root_of(root) / native(source.path)),
        source.member,
        source.frame,
        study.patient_id,
        study.study_uid,
        series_uid,
        sop_uid,
    )
