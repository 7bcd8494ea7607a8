"""When each study ended, on which rank, and what its stages took, from the journals; pauses between attempts are cut out."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.run.journal import LastRecord, journal_files, take_notes

PAUSE_S = 600.0
"""Where no study ended for longer than this nobody was working."""
STAGES = ("read", "lung", "prepare", "infer", "pictures")
MERGED = "earlier attempts"


def read_timing(run: Path, records: dict[str, LastRecord]) -> pd.DataFrame:
    """One row a study that was taken through the stages: study_key, rank, at_s (working time since the start), seconds a stage.

    `records` are the last ones of the run's studies. Attempts that a resume has merged have lost their rank: it is `MERGED`.
    """
    timing = pd.DataFrame(_columns(run, records)).sort_values("ended", ignore_index=True, kind="stable")
    gaps = np.minimum(timing["ended"].astype(float).diff().fillna(0.0), PAUSE_S)
    timing["at_s"] = gaps.cumsum()
    return timing.drop(columns="ended")


def _columns(run: Path, records: dict[str, LastRecord]) -> dict[str, Any]:
    """The table's columns, the known stages in their order; nothing where a study was not taken through a stage."""
    keys = list[str]()
    ranks = list[str]()
    ended = array("d")
    seconds: dict[str, array[float]] = {}
    for path in journal_files(run):
        rank = MERGED if "compacted" in path.name else f"{path.parent.name}/{path.stem}"
        for note in take_notes(path):
            record = records.get(note.key)
            if not note.seconds or record is None or (record.path, record.offset) != (path, note.offset):
                continue
            for name in note.seconds.keys() - seconds.keys():
                seconds[name] = array("d", [math.nan] * len(keys))
            for name, spent in seconds.items():
                spent.append(note.seconds.get(name, math.nan))
            keys.append(note.key)
            ranks.append(rank)
            ended.append(note.ended)
    names = [*(name for name in STAGES if name in seconds), *sorted(seconds.keys() - set(STAGES))]
    return {"study_key": keys, "rank": ranks, "ended": ended, **{name: seconds[name] for name in names}}


def stages_of(timing: pd.DataFrame) -> list[str]:
    """The columns of `timing` that hold a stage's seconds."""
    return [name for name in timing.columns if name not in ("study_key", "rank", "at_s")]


def slowest_stages(timing: pd.DataFrame) -> pd.DataFrame:
    """A row a stage, the most expensive first: total_s, share, median_s, p95_s, worst_s, worst_study."""
    rows = []
    for name in stages_of(timing):
        spent = timing[name].fillna(0.0)
        worst = timing["study_key"].iloc[int(spent.to_numpy().argmax())]
        numbers = (spent.sum(), spent.median(), spent.quantile(0.95), spent.max())
        rows.append((name, *numbers, worst))
    table = pd.DataFrame(rows, columns=["stage", "total_s", "median_s", "p95_s", "worst_s", "worst_study"])
    table.insert(2, "share", table["total_s"] / max(table["total_s"].sum(), 1e-9))
    return table.sort_values("total_s", ascending=False, ignore_index=True)
