"""Two runs side by side: which scores moved and by how much, and what differs in settings and versions."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pipeline.errors import ConfigurationError
from pipeline.report.figures import Chart, bland_altman
from pipeline.run.read_tables import Run, open_run
from pipeline.run.run_toml import Described, Network, read_described

LARGEST = 20
"""Studies that the table of changes lists."""
LIMITS = 1.96
"""Standard deviations: 95 of 100 differences lie within them where they are normally distributed (Bland and Altman)."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How one network's scores moved; `rows` are the largest changes as (study_key, there, here, change)."""

    name: str
    name_there: str
    n: int
    n_moved: int
    mean: float
    low: float
    high: float
    largest: float
    chart: Chart
    rows: tuple[tuple[str, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between a run and another; `differences` are (what, there, here), `counts` (what, number of studies)."""

    differences: tuple[tuple[str, str, str], ...]
    counts: tuple[tuple[str, int], ...]
    moved: tuple[Moved, ...]
    unpaired: tuple[str, ...]


def compare(run: Run, there: Path) -> Comparison:
    """This run against the one at `there`. Raises ConfigurationError where their keys differ: no study would be met again."""
    other = open_run(there)
    here = read_described(run.folder)
    described = read_described(there)
    if here.key_fingerprint != described.key_fingerprint:
        raise ConfigurationError(
            f"{there} was made with another pseudonym key: no study can be recognised; screen both with one --key-file"
        )
    pairs = _pairs(here.networks, described.networks)
    studies = run.studies.merge(other.studies, how="outer", on="study_key", suffixes=("", "_there"), indicator="met")
    met = {one.column for pair in pairs for one in pair}
    unpaired = tuple(one.column for one in (*here.networks, *described.networks) if one.column not in met)
    return Comparison(
        _differences(described, here),
        _counts(studies),
        tuple(one for pair in pairs if (one := _moved(run, other, *pair))),
        unpaired,
    )


def _pairs(here: list[Network], there: list[Network]) -> list[tuple[Network, Network]]:
    """Networks of one column, then of the same weights, then the only one of each."""
    pairs: list[tuple[Network, Network]] = []
    for alike in (attrgetter("column"), attrgetter("sha256")):
        for mine in here:
            taken = {id(one) for pair in pairs for one in pair}
            other = next((one for one in there if id(one) not in taken and alike(mine) == alike(one)), None)
            if id(mine) not in taken and other is not None:
                pairs.append((mine, other))
    if not pairs and len(here) == len(there) == 1:
        pairs = [(here[0], there[0])]
    return pairs


def _moved(run: Run, other: Run, mine: Network, theirs: Network) -> Moved | None:
    """None where no study has both scores."""
    left = run.studies[["study_key", mine.column]].set_axis(["study_key", "here"], axis=1)
    right = other.studies[["study_key", theirs.column]].set_axis(["study_key", "there"], axis=1)
    both = left.merge(right, on="study_key").dropna().reset_index(drop=True)
    if both.empty:
        return None
    both["change"] = both["here"] - both["there"]
    mean = float(both["change"].mean())
    deviation = float(both["change"].std()) if len(both) > 1 else 0.0
    low = mean - LIMITS * deviation
    high = mean + LIMITS * deviation
    changed = both[both["change"] != 0]
    order = changed["change"].abs().sort_values(ascending=False, kind="stable").index[:LARGEST]
    rows = changed.loc[order, ["study_key", "there", "here", "change"]]
    return Moved(
        mine.column,
        theirs.column,
        len(both),
        len(changed),
        mean,
        low,
        high,
        float(both["change"].abs().max()),
        bland_altman(both, mine.column, (low, mean, high)),
        tuple(rows.itertuples(index=False, name=None)),
    )


def _counts(studies: pd.DataFrame) -> tuple[tuple[str, int], ...]:
    """How many studies stand in one run or both, and where only one of them scored."""
    scored = studies["status"].fillna("").str.startswith("OK")
    scored_there = studies["status_there"].fillna("").str.startswith("OK")
    met = studies["met"]
    counts = {
        "studies in both runs": met == "both",
        "only in this run": met == "left_only",
        "only in the other run": met == "right_only",
        "in both, scored only in this run": (met == "both") & scored & ~scored_there,
        "in both, scored only in the other run": (met == "both") & ~scored & scored_there,
    }
    return tuple((said, int(which.sum())) for said, which in counts.items())


def _differences(there: Described, here: Described) -> tuple[tuple[str, str, str], ...]:
    """Every setting, version and digest in which the two differ."""
    before = _flat(msgspec.to_builtins(there))
    after = _flat(msgspec.to_builtins(here))
    names = [*after, *(name for name in before if name not in after)]
    different = [name for name in names if before.get(name) != after.get(name)]
    return tuple((name, _as_text(before.get(name)), _as_text(after.get(name))) for name in different)


def _flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, one in value.items():
        inner = {network["column"]: network for network in one} if name == "networks" else one
        flat |= _flat(inner, f"{above}{name}.") if isinstance(inner, dict) else {f"{above}{name}": inner}
    return flat


def _as_text(value: object) -> str:
    return "none" if value is None else str(value)
