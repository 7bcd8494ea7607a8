"""An evaluation on disk: figures.csv and .md, patients.csv, about.csv, left_out.csv, and the pictures.

A CSV table holds nothing but its rows: what must be read beside them (the notice, who was left out, the threshold, whose
weights) stands in about.csv in the same folder, and figures.md repeats it. Patients appear by key only.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigurationError
from pipeline.evaluation.delong import paired_difference
from pipeline.evaluation.metrics import Figure, Scored, figures
from pipeline.evaluation.plots import NOTICE, draw
from pipeline.files import write_whole
from pipeline.records import DEFAULT_THRESHOLD

FOLDER = "evaluation"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network says of labelled patients; `name` is its folder under `evaluation/`.

    `keys` are the patients' in the order of `by_patient`; `left_out` counts `unit`s by reason.
    """

    name: str
    by_image: Scored
    by_patient: Scored
    keys: tuple[str, ...]
    threshold: float | None
    about: Mapping[str, str]
    left_out: Counter[str] = field(default_factory=Counter)
    unit: str = "patients"


def write_evaluation(run: Path, measured: Measured, against: Path | None = None) -> list[Figure]:
    """Write RUN/evaluation/NAME/ and return its figures; with `against` the difference to that run too."""
    threshold = DEFAULT_THRESHOLD if measured.threshold is None else measured.threshold
    found = figures("image", measured.by_image, threshold) + figures("patient", measured.by_patient, threshold)
    if against is not None:
        found.append(_difference(against, measured))
    out = run / FOLDER / measured.name
    out.mkdir(parents=True, exist_ok=True)
    told = _about(measured)
    _write_csv(out / "about.csv", ("item", "says"), told.items())
    _write_csv(out / "left_out.csv", ("reason", measured.unit), sorted(measured.left_out.items()))
    _write_csv(out / "figures.csv", tuple(Figure.__dataclass_fields__), (astuple(figure) for figure in found))
    _write_csv(out / "patients.csv", ("patient_key", "positive", "probability"), _patients(measured))
    write_whole(out / "figures.md", markdown(told, found).encode())
    for name, picture in draw(measured.by_image, measured.by_patient, threshold):
        write_whole(out / name, picture)
    return found


def interval(figure: Figure) -> str:
    """The figure's interval in words."""
    return "no interval" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"


def markdown(told: Mapping[str, str], found: Sequence[Figure]) -> str:
    """figures.md: what must be known, then the table."""
    lines = [f"- {item}: {says}" for item, says in told.items()]
    lines += ["", "| level | metric | value | 95 % interval | by |", "|---|---|---|---|---|"]
    lines += [f"| {f.level} | {f.metric} | {f.value:.3f} | {interval(f)} | {f.method} |" for f in found]
    return "\n".join([*lines, ""])


def _about(measured: Measured) -> dict[str, str]:
    """What stands beside every table."""
    target = measured.by_patient.target
    lost = "; ".join(f"{reason}: {count} {measured.unit}" for reason, count in sorted(measured.left_out.items()))
    stated = measured.threshold
    chosen = (
        f"{DEFAULT_THRESHOLD}, since the checkpoint states none" if stated is None else f"{stated:.3f}, as its checkpoint says"
    )
    return {
        "notice": NOTICE,
        "patients": f"{len(target)}, {int(target.sum())} of them positive; {len(measured.by_image.target)} slices",
        "left out": lost or "nobody",
        "threshold": chosen,
        **measured.about,
        "intervals": "95 %; the method stands beside each. Slices are never resampled apart from their patient. "
        "The calibration error of a resample is biased upwards, so its interval may lie above its value",
    }  # fmt: skip


def _patients(measured: Measured) -> Iterable[tuple[str, int, float]]:
    scored = measured.by_patient
    return zip(measured.keys, scored.target.astype(int).tolist(), scored.score.tolist(), strict=True)


def _difference(against: Path, measured: Measured) -> Figure:
    """The area less that of another run on the same patients, which was evaluated before (paired DeLong)."""
    path = _evaluated(against, measured.name) / "patients.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            other = {row["patient_key"]: (row["positive"], float(row["probability"])) for row in csv.DictReader(file)}
    except OSError as error:
        raise ConfigurationError(f"{path} is not there: evaluate that run first, with the same labels (and --part)") from error
    if set(other) != set(measured.keys):
        raise ConfigurationError(
            f"{path} holds other patients: both runs need the same split (--split), or archive and key (--key-file)"
        )
    scored = measured.by_patient
    if [other[key][0] for key in measured.keys] != [str(int(positive)) for positive in scored.target]:
        raise ConfigurationError(f"{path} was made with other labels: evaluate both runs with the same --labels")
    return paired_figure(scored, [other[key][1] for key in measured.keys])


def _evaluated(run: Path, name: str) -> Path:
    """The folder of the network of that name, or of the only one that was evaluated there, whatever it was called."""
    there = [path.parent for path in (run / FOLDER).glob("*/patients.csv")]
    named = run / FOLDER / name
    return there[0] if len(there) == 1 and named not in there else named


def paired_figure(scored: Scored, other: Sequence[float]) -> Figure:
    """The area less that of `other`'s scores of the same patients."""
    area = paired_difference(scored.target, scored.score, np.array(other))
    if area.error == 0.0:  # both rank all pairs alike: nothing to estimate a spread from
        nothing = "DeLong, paired: the two rank every pair of patients alike"
        return Figure("patient", "AUC difference", area.area, math.nan, math.nan, nothing)
    return Figure("patient", "AUC difference", area.area, area.low, area.high, "DeLong, paired")


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Numbers that are none stay empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    write_whole(path, text.getvalue().encode())
