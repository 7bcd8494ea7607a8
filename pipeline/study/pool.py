"""Slice scores -> the study's row; pure functions.

The study's probability is the mean over its scored slices (paper, step 4); `gather` pools a patient over studies the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.errors import Reason, StudyError
from pipeline.records import (
    Detail,
    Event,
    PreparedStudy,
    ScoredSlice,
    Series,
    SlicePrediction,
    Status,
    Study,
    StudyResult,
)
from pipeline.study.boxes import to_original, within

EXCLUDING = frozenset({Reason.NO_LUNG_FOUND, Reason.LUNG_IMPLAUSIBLE, Reason.NOT_CHEST, Reason.GREY_UNKNOWN})
"""Reasons met after indexing that exclude a study rather than fail it: the input is sound, it is not ours."""


def study_result(
    study: Study, series: Series, prepared: PreparedStudy, predictions: Sequence[Sequence[SlicePrediction]]
) -> StudyResult:
    """The row of a study that was scored; `predictions` are [slice][network]."""
    telling = (*(event for event in study.events if event.scope == "study"), *series.events, *prepared.events)
    warnings = tuple(sorted({str(event.code) for event in telling}))
    events = (*study.events, *series.events, *prepared.events)
    n_networks = len(predictions[0])
    probabilities = tuple(
        math.fsum(row[network].probability for row in predictions) / len(predictions) for network in range(n_networks)
    )
    return StudyResult(
        study_key=study.study_key,
        patient_key=study.patient_key,
        status="OK_WITH_WARNINGS" if warnings else "OK",
        warnings=warnings,
        probabilities=probabilities,
        series_key=series.series_key,
        n_files=study.n_files,
        label=study.label,
        facts=series.facts,
        slices=tuple(_scored(prepared, row, predictions[row]) for row in range(len(predictions))),
        events=events,
    )


def failed_result(study: Study, error: StudyError) -> StudyResult:
    """The row of a study that was dealt and could not be scored."""
    status: Status = "EXCLUDED" if error.reason in EXCLUDING else "FAILED"
    events = (*study.events, Event("study", error.stage, error.reason.value))
    return StudyResult(
        study.study_key,
        study.patient_key,
        status,
        reason=error.reason.value,
        n_files=study.n_files,
        label=study.label,
        events=events,
    )


def excluded_result(study: Study) -> StudyResult:
    """The row of a study in which indexing found nothing to score."""
    return StudyResult(
        study.study_key,
        study.patient_key,
        "FAILED" if study.status == "FAILED" else "EXCLUDED",
        reason=study.reason,
        n_files=study.n_files,
        label=study.label,
        events=study.events,
    )


def _scored(prepared: PreparedStudy, row: int, predictions: Sequence[SlicePrediction]) -> ScoredSlice:
    return ScoredSlice(
        slice_index=int(prepared.slice_index[row]),
        z_mm=float(prepared.z_mm[row]),
        lung_area_mm2=float(prepared.lung_area_mm2[row]),
        predictions=tuple(_placed(prediction, prepared, row) for prediction in predictions),
    )


def _placed(prediction: SlicePrediction, prepared: PreparedStudy, row: int) -> SlicePrediction:
    """The same prediction with every detail's box within the picture, and in the stored image's pixels too."""
    size = prepared.images.shape[1]

    def place(detail: Detail) -> Detail:
        box = within(detail.box, size)
        return replace(detail, box=box, original=to_original(box, prepared.crops[row], size, prepared.original_affine))

    return SlicePrediction(prediction.probability, tuple(place(detail) for detail in prediction.details))
