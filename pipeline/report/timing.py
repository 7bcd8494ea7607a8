"""When each study ended, on which rank, and what its stages took, from the journals; pauses between attempts are cut out."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd

from pipeline.store import Place, raw

PAUSE_S = 600.0
"""Where no study ended for longer than this nobody was working."""
STAGES = ("read", "lung", "prepare", "infer")
MERGED = "earlier attempts"


class _Spent(msgspec.Struct):
    """What the report wants of a journal line."""

    seconds: dict[str, float] = {}
    ended: float = 0.0


def read_timing(places: dict[str, Place]) -> pd.DataFrame:
    """One row a study that was taken through the stages: study_key, rank, at_s (working time since the start), seconds a stage.

    `places` are those of the run's last records. Attempts that a resume has merged have lost their rank: it is `MERGED`.
    """
    decoder = msgspec.json.Decoder(_Spent)
    rows = []
    for key, place in places.items():
        spent = decoder.decode(raw(place).rpartition(b"\t")[0]) if key else _Spent()
        if spent.seconds:
            rank = MERGED if "compacted" in place.path.name else f"{place.path.parent.name}/{place.path.stem}"
            rows.append({"study_key": key, "rank": rank, "ended": spent.ended, **spent.seconds})
    timing = pd.DataFrame(rows, columns=["study_key", "rank", "ended", *_stages(rows)]).sort_values("ended", ignore_index=True)
    gaps = np.minimum(timing["ended"].astype(float).diff().fillna(0.0), PAUSE_S)
    timing["at_s"] = gaps.cumsum()
    return timing.drop(columns="ended")


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


def _stages(rows: list[dict[str, object]]) -> list[str]:
    """The stages' names, the known ones in their order."""
    met = {name for row in rows for name in row} - {"study_key", "rank", "ended"}
    return [*(name for name in STAGES if name in met), *sorted(met - set(STAGES))]
