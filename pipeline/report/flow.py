"""Where every file and every study went: found -> in studies -> chosen -> scored, each loss with its reason and number."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipeline.run.read_tables import Run

BEFORE_SCREENING = frozenset({"walk", "unpack", "index", "select"})
"""Stages that settle a study before any of its pixels is read."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What left the flow at one step, for one reason."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Step:
    """What is left at one step, and what left it on the way to the next; together they are what the step before had."""

    title: str
    count: int
    losses: tuple[Loss, ...] = ()

    @property
    def lost(self) -> int:
        """How many left after this step."""
        return sum(loss.count for loss in self.losses)


@dataclass(frozen=True, slots=True)
class Flow:
    """The files' and the studies' way through the run."""

    files: tuple[Step, ...]
    studies: tuple[Step, ...]
    warnings: tuple[Loss, ...]


def read_flow(run: Run) -> Flow:
    """The flow of a gathered run."""
    studies = run.studies
    exclusions = run.exclusions
    outside = exclusions[(exclusions["scope"] == "file") & exclusions["study_key"].isna()]
    inside = int(studies["n_files"].sum())
    files = (
        Step("files and members of containers found", inside + int(outside["count"].sum()), _losses(outside)),
        Step("files of CT studies, or met with them", inside),
    )
    lost = studies[studies["reason"].notna()]
    early = _settled_early(lost, exclusions)
    n_chosen = len(studies) - int(early.sum())
    steps = (
        Step("studies discovered", len(studies), _counts(lost.loc[early, "reason"])),
        Step("studies with a series to screen", n_chosen, _counts(lost.loc[~early, "reason"])),
        Step("studies scored", len(studies) - len(lost)),
    )
    return Flow(files, steps, _counts(studies["warnings"].dropna().str.split(";").explode()))


def _settled_early(lost: pd.DataFrame, exclusions: pd.DataFrame) -> pd.Series[bool]:
    """Which of the studies that were not scored were settled by their headers alone."""
    of_studies = exclusions[exclusions["scope"] == "study"].drop_duplicates(["study_key", "code"], keep="last")
    stages = lost.merge(of_studies, how="left", left_on=["study_key", "reason"], right_on=["study_key", "code"])["stage"]
    return pd.Series(stages.fillna("select").isin(BEFORE_SCREENING).to_numpy(), index=lost.index)


def _losses(events: pd.DataFrame) -> tuple[Loss, ...]:
    counts = events.groupby("code")["count"].sum().sort_values(ascending=False)
    return tuple(Loss(str(reason), int(count)) for reason, count in counts.items())


def _counts(reasons: pd.Series[str]) -> tuple[Loss, ...]:
    return tuple(Loss(str(reason), int(count)) for reason, count in reasons.value_counts().items())
