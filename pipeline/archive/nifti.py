"""NIfTI volumes (`.nii`, `.nii.gz`): a study a file; where its voxels lie in the patient is said by its affine.

Slices run along the axis of the file that runs most nearly along the body; of a slice the file's faster axis counts as columns.
Only the slices that are wanted are kept, whichever axis of the file they lie along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace as changed

from pipeline.archive.allowance import Allowance
from pipeline.archive.codestream import is_nifti
from pipeline.archive.container import ONLY, ZipMembers, begun, container_kind, content
from pipeline.archive.describe import MAX_MATRIX
from pipeline.archive.found import FileRecord, Header, VolumeFile
from pipeline.archive.frame import StreamOrigin
from pipeline.archive.geometry import MIN_NORMAL_Z, TILT_MAX_DEGREES, TILT_WARN_DEGREES, WIDEST_MM, Floats, Stack, to_original
from pipeline.archive.reading import check_same, check_unchanged
from pipeline.archive.selection import DAMAGE, seed
from pipeline.archive.syntax import study_cost
from pipeline.archive.walk import native, open_regular
from pipeline.config import SeriesConfig
from pipeline.errors import Reason, StudyError
from pipeline.pseudonym import pseudonym
from pipeline.records import Event, Facts, Series, SliceSource, Study

HEADER_BYTES = 544
"""The header of NIfTI-2, rounded up; that of NIfTI-1 has 348."""
MOST_OF_A_FOLDER = 8
"""A folder with more volumes than this is a heap of patients, not one."""
NUMBERS = frozenset("uif")
UNITS_MM = {1: 1000.0, 3: 0.001}
"""Metres and micrometres; all else is millimetres."""
SQUARE = 0.02
"""Most that the cosine between a slice's axes may differ from 0."""


@dataclass(frozen=True, slots=True)
class VoxelGrid:
    """Where a volume's slices lie: the file's `axis` counts them; a slice's columns run along `across`, rows `down`."""

    axis: int
    across: int
    down: int
    z_mm: Floats
    spacing_mm: tuple[float, float]
    orientation: Floats
    tilt_degrees: float


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the voxels stand in the file."""

    shape: tuple[int, int, int]
    kind: np.dtype[Any]
    offset: int
    slope: float
    intercept: float


def scan_nifti(stream: BinaryIO, size: int, origin: StreamOrigin) -> FileRecord:
    """What the header of a volume of `size` bytes says, held against what is there. Raises whatever damage leads to."""
    stream.seek(0)
    header = _header(stream.read(HEADER_BYTES))
    source = SliceSource(
        origin.path, 0.0, origin.offset, size, origin.member,
        size=origin.size, mtime_ns=origin.mtime_ns, start=origin.address, check=origin.check,
    )  # fmt: skip
    problem = _problem(header, size)
    if problem:
        return FileRecord(member=origin.member, volume=VolumeFile(source, problem=problem))
    shape = _shape(header)
    affine = _affine(header)
    return FileRecord(member=origin.member, volume=VolumeFile(source, shape, tuple(affine.ravel().tolist())))


def volume_name(volume: VolumeFile, member: str) -> str:
    """The path of a volume, with that within a container of several files."""
    return f"{volume.source.path}!/{member}" if member and member != ONLY else volume.source.path


def folder_patients(names: Sequence[str]) -> dict[str, str]:
    """Whose each volume is: its folder's, where that is below the archive's top and no heap; else a patient of its own."""
    folders = Counter(name.rpartition("/")[0] for name in names)
    homes = {name: name.rpartition("/")[0] for name in names}
    return {name: home if home and folders[home] <= MOST_OF_A_FOLDER else name for name, home in homes.items()}


def build_volume_study(name: str, patient: str, record: FileRecord, config: SeriesConfig, key: bytes) -> Study:
    """The study of one volume; one that cannot be used is EXCLUDED or FAILED with its reason."""
    study = Study(pseudonym(key, "study", name), pseudonym(key, "patient", patient), name, patient, n_files=1)
    try:
        series = _series(name, record.volume or VolumeFile(SliceSource("", 0.0)), config, key)
    except StudyError as error:
        events = (Event("series", error.stage, error.reason),)
        return replace(study, status="FAILED" if error.reason in DAMAGE else "EXCLUDED", reason=error.reason, events=events)
    source = series.slices[0]
    return replace(study, candidates=(series,), cost=study_cost(source.syntax, source.rows, source.columns))


def read_nifti(root: Path, sources: Sequence[SliceSource], allowance: Allowance) -> list[Floats]:
    """HU of the slices as they are stored [rows, columns], in order. Raises StudyError."""
    first = sources[0]
    with allowance.parsing(Reason.DECODE_ERROR, "decode"), open_regular(root / native(first.path)) as stream:
        check_unchanged(stream, first)
        allowance.unpack(first.size)
        kind = container_kind(stream) if first.member else None
        body = ZipMembers(stream, allowance).stream(first.start) if kind == "zip" else content(stream, kind, allowance)
        whole, begin = begun(body, 0 if kind == "zip" else first.start, allowance)
        whole.seek(begin)
        check_same(whole, first)
        whole.seek(first.offset)
        header = _header(whole.read(HEADER_BYTES))
        layout = _layout(header)
        axis = _along_body(_affine(header))
        stored = _stored(whole, first.offset + layout.offset, layout, axis, [source.frame for source in sources])
    hu = stored * layout.slope + layout.intercept
    if not np.isfinite(hu).all():
        raise StudyError(Reason.PIXELS_IMPLAUSIBLE, "volume")
    return list(hu)


def grid_of(volume: VolumeFile) -> VoxelGrid:
    """Where the slices lie. Raises StudyError where they have no place, or none across the body."""
    affine = np.array(volume.affine).reshape(3, 4)
    lengths: Floats = np.linalg.norm(affine[:, :3], axis=0).astype(np.float64)
    if lengths.min() <= 0 or (lengths * volume.shape).max() > WIDEST_MM:
        raise StudyError(Reason.INVALID_VALUE, "select")
    axis = _along_body(affine)
    across, down = (number for number in range(3) if number != axis)
    orientation: Floats = np.concatenate([affine[:, across] / lengths[across], affine[:, down] / lengths[down]])
    if abs(orientation[:3] @ orientation[3:]) > SQUARE:
        raise StudyError(Reason.MISSING_GEOMETRY, "select")
    normal = np.cross(orientation[:3], orientation[3:])
    normal *= np.sign(normal[2]) / np.linalg.norm(normal)
    if normal[2] < MIN_NORMAL_Z:
        raise StudyError(Reason.NOT_AXIAL, "select")
    step_mm = float(affine[:, axis] @ normal)
    z_mm = np.round(float(affine[:, 3] @ normal) + step_mm * np.arange(volume.shape[axis]), 3)  # single precision is no finer
    tilt = float(np.degrees(np.arccos(min(1.0, abs(step_mm) / lengths[axis]))))
    return VoxelGrid(axis, across, down, z_mm, (float(lengths[down]), float(lengths[across])), orientation, tilt)


def _along_body(affine: Floats) -> int:
    """The axis of the file that runs most nearly along z."""
    import nibabel

    whole = np.vstack([affine, [0, 0, 0, 1]])
    return int(np.flatnonzero(nibabel.orientations.io_orientation(whole)[:, 0] == 2)[0])


def _series(name: str, volume: VolumeFile, config: SeriesConfig, key: bytes) -> Series:
    """The one candidate of a volume. Raises StudyError with the reason for which it is none."""
    if volume.problem:
        raise StudyError(Reason(volume.problem), "index")
    grid = grid_of(volume)
    _check_extent(grid, config)
    source = changed(volume.source, rows=volume.shape[grid.down], columns=volume.shape[grid.across])
    affine, turned = to_original(Stack((Header("", "", source=source),), grid.z_mm, grid.orientation))
    order = np.argsort(grid.z_mm)
    row_mm, column_mm = grid.spacing_mm
    spacing_mm = (column_mm, row_mm) if turned else (row_mm, column_mm)
    size = (source.columns, source.rows) if turned else (source.rows, source.columns)
    z_mm = grid.z_mm[order]
    return Series(
        series_key=pseudonym(key, "series", name),
        series_uid=name,
        seed=seed(repr((size, len(z_mm), [round(mm, 3) for mm in spacing_mm])).encode()),  # alike in whatever orientation
        slices=tuple(
            changed(source, frame=int(frame), z_mm=float(z), place=place)
            for place, (frame, z) in enumerate(zip(order, z_mm, strict=True))
        ),
        spacing_mm=spacing_mm,
        original_affine=affine,
        kind="nifti",
        events=(Event("series", "select", Reason.GANTRY_TILT),) if grid.tilt_degrees > TILT_WARN_DEGREES else (),
        facts=Facts(
            spacing_between_mm=round(float(np.median(np.diff(z_mm))), 4),
            z_extent_mm=round(float(z_mm[-1] - z_mm[0]), 3),
            n_slices=len(z_mm),
        ),
    )


def _check_extent(grid: VoxelGrid, config: SeriesConfig) -> None:
    if len(grid.z_mm) < config.min_slices:
        raise StudyError(Reason.TOO_FEW_SLICES, "select")
    if np.ptp(grid.z_mm) < config.min_extent_mm or abs(grid.z_mm[1] - grid.z_mm[0]) > config.max_spacing_mm:
        raise StudyError(Reason.NO_SUITABLE_SERIES, "select")
    if grid.tilt_degrees > TILT_MAX_DEGREES:
        raise StudyError(Reason.GANTRY_TILT, "select")


def _header(head: bytes) -> Any:
    """The header as nibabel reads it, not yet checked. Raises whatever a damaged one leads to."""
    import nibabel

    if not is_nifti(head):
        raise StudyError(Reason.HEADER_CORRUPT, "index")
    kind = nibabel.Nifti2Header if b"n+2\0" in head[4:8] else nibabel.Nifti1Header
    header = kind(head[: kind.sizeof_hdr], check=False)  # what extends it lies before the voxels, and says nothing of them
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # the sign of a qform's third axis; 0, as some write, means 1
    return header


def _shape(header: Any) -> tuple[int, int, int]:
    across, down, through = (int(n) for n in header["dim"][1:4])
    return across, down, through


def _affine(header: Any) -> Floats:
    """Voxel -> millimetres to the patient's left, back and head [3, 4]."""
    scale = UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = np.asarray(header.get_best_affine(), np.float64)[:3] * scale
    affine[:2] *= -1  # NIfTI's x and y run to the right and to the front
    return affine


def _problem(header: Any, size: int) -> str:
    """Why a volume cannot be used, as far as its header tells; a bomb is decided here, before anything is read of it."""
    n_axes = int(header["dim"][0])
    shape = _shape(header)
    kind = header.get_data_dtype()
    more = [int(n) for n in header["dim"][4 : n_axes + 1]] if 3 <= n_axes <= 7 else [0]
    if any(n != 1 for n in more) or min(shape) < 1 or kind.kind not in NUMBERS or kind.itemsize > 8:
        return Reason.PIXEL_FORMAT
    if max(shape) > MAX_MATRIX:
        return Reason.DECOMPRESSION_BOMB
    layout = _layout(header)
    if layout.offset < header.single_vox_offset:
        return Reason.HEADER_CORRUPT
    if layout.offset + shape[0] * shape[1] * shape[2] * kind.itemsize > size:
        return Reason.TRUNCATED_PIXEL_DATA
    return _value_problem(header, layout)


def _value_problem(header: Any, layout: _Layout) -> str:
    """Why the values cannot be HU at a known place."""
    if max(abs(layout.slope), abs(layout.intercept)) > 1e6:
        return Reason.NOT_HU
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        return Reason.MISSING_GEOMETRY
    return "" if np.isfinite(_affine(header)).all() else Reason.INVALID_VALUE


def _layout(header: Any) -> _Layout:
    slope, intercept = header.get_slope_inter()
    kind = np.dtype(header.get_data_dtype())
    return _Layout(
        _shape(header), kind, int(header["vox_offset"]), 1.0 if slope is None else float(slope), float(intercept or 0.0)
    )


def _stored(whole: BinaryIO, begin: int, layout: _Layout, axis: int, frames: Sequence[int]) -> npt.NDArray[Any]:
    """The stored slices [wanted, rows, columns] along `axis`; planes of the file's slowest axis are read from front to back."""
    fast, middle, slow = layout.shape
    rows, columns = (middle, fast) if axis == 2 else (slow, fast) if axis == 1 else (slow, middle)
    stored = np.empty((len(frames), rows, columns), layout.kind)
    size = fast * middle * layout.kind.itemsize
    for number in sorted(set(frames)) if axis == 2 else range(slow):
        whole.seek(begin + number * size)
        data = whole.read(size)
        if len(data) < size:
            raise StudyError(Reason.TRUNCATED_PIXEL_DATA, "decode")
        plane = np.frombuffer(data, layout.kind).reshape(middle, fast)
        if axis == 2:
            stored[[place for place, frame in enumerate(frames) if frame == number]] = plane
        else:
            stored[:, number] = plane[list(frames)] if axis == 1 else plane[:, list(frames)].T
    return stored
