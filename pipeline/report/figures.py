"""The report's charts, drawn with matplotlib as SVG and told in words beside it.

Colours are apart in grey and for the colour-blind (Okabe and Ito); classes differ in their line or hatch too.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.timing import stages_of

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++")
MANY_RANKS = 64
MANY_POINTS = 2000
"""More than this are drawn as one picture."""
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "axes.axisbelow": True}


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture for the page, and what it shows for who cannot see it."""

    title: str
    said: str
    source: str


def charts(studies: pd.DataFrame, networks: list[str], timing: pd.DataFrame) -> list[Chart]:
    """The run's charts; one without data is left out."""
    drawn: list[Chart] = []
    with mpl.rc_context(STYLE):
        drawn += [_scores(studies, name) for name in networks if studies[name].notna().any()]
        if len(timing) > 1:
            drawn += [_throughput(timing), _ranks(timing)]
    return drawn


def _scores(studies: pd.DataFrame, name: str) -> Chart:
    """How often each score was met, a line a label where labels are known."""
    figure, axes = _figure()
    scores = studies[studies[name].notna()]
    edges = np.linspace(0.0, 1.0, 41)
    labels = scores["label"].astype("string").fillna("")
    groups = {label: scores.loc[labels == label, name] for label in sorted(set(labels))}
    for number, (label, values) in enumerate(groups.items()):
        counts, _ = np.histogram(values, edges)
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number % len(DASHES)]
        axes.stairs(
            counts, edges, color=colour, linestyle=dash, linewidth=1.6, label=f"{label or 'no label'} ({len(values):,})"
        )
    axes.set(xlabel=f"{name} of a study", ylabel="studies", xlim=(0, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if list(groups) != [""]:
        _legend(axes)
    low, middle, high = scores[name].quantile([0.05, 0.5, 0.95])
    said = f"{len(scores):,} studies scored. Median {middle:.3f}; nine in ten lie between {low:.3f} and {high:.3f}."
    title = "Scores of the studies" if name == "probability" else f"Scores of the studies, {name}"
    return Chart(title, said, _source(figure, name))


def _throughput(timing: pd.DataFrame) -> Chart:
    """Studies a minute over working time."""
    figure, axes = _figure()
    last = max(float(timing["at_s"].iloc[-1]), 1e-3)
    counts, edges = np.histogram(timing["at_s"], bins=min(60, max(5, len(timing) // 3)), range=(0, last))
    per_minute = counts / np.diff(edges) * 60
    unit, size = ("min", 60.0) if last > 300 else ("s", 1.0)
    axes.stairs(per_minute, edges / size, fill=True, color=COLOURS[4])
    axes.stairs(per_minute, edges / size, color=COLOURS[0], linewidth=1.2)
    axes.set(xlabel=f"working time, {unit}", ylabel="studies a minute", xlim=(0, last / size), ylim=(0, None))
    said = f"{len(timing):,} studies ended within {last:,.0f} s of the first: {len(timing) / last * 60:,.1f} a minute over all."
    return Chart("Throughput over time", said, _source(figure, "throughput"))


def _ranks(timing: pd.DataFrame) -> Chart:
    """Seconds of work of every rank, by stage, the busiest first."""
    figure, axes = _figure()
    stages = stages_of(timing)
    spent = timing.groupby("rank")[stages].sum()
    spent = spent.loc[spent.sum(axis=1).sort_values(ascending=False).index]
    base = np.zeros(len(spent))
    for number, stage in enumerate(stages):
        top = base + spent[stage].to_numpy()
        look: dict[str, Any] = {
            "facecolor": COLOURS[number % len(COLOURS)],
            "label": stage,
            "linewidth": 0.4,
            "edgecolor": "#333333",
        }
        if len(spent) > MANY_RANKS:
            axes.fill_between(np.arange(len(spent)), base, top, hatch=HATCHES[number % len(HATCHES)], **look)
        else:
            axes.bar(np.arange(len(spent)), top - base, 0.8, bottom=base, hatch=HATCHES[number % len(HATCHES)], **look)
        base = top
    axes.set(xlabel=f"{len(spent):,} ranks of all attempts, the busiest first", ylabel="seconds of work", xticks=[])
    _legend(axes)
    counts = timing["rank"].value_counts()
    said = f"{len(counts):,} ranks took {counts.min():,} to {counts.max():,} studies each; the busiest worked {base[0]:,.0f} s"
    return Chart("Work of every rank", f"{said}, the least busy {base[-1]:,.0f} s.", _source(figure, "ranks"))


def bland_altman(both: pd.DataFrame, name: str, limits: tuple[float, float, float]) -> Chart:
    """Each study's change of score (`here` - `there`) over the mean of its two scores; `limits` are low, mean, high."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure()
        mean = (both["here"] + both["there"]) / 2
        change = both["change"]
        axes.scatter(mean, change, s=10, color=COLOURS[0], alpha=0.6, linewidths=0, rasterized=len(both) > MANY_POINTS)
        for value, dash, said in zip(limits, (":", "-", ":"), ("lower limit", "mean", "upper limit"), strict=True):
            axes.axhline(value, color=COLOURS[5], linestyle=dash, linewidth=1.2)
            axes.annotate(f"{said} {value:+.3f}", (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axes.set(xlabel=f"mean of the two scores, {name}", ylabel="here less there", xlim=(0, 1))
        low, middle, high = limits
        told = f"{len(both):,} studies with both scores; mean change {middle:+.4f}, limits {low:+.4f} and {high:+.4f}."
        return Chart(f"Change of score, {name} (Bland-Altman)", told, _source(figure, f"change of {name}"))


def _figure() -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=(6.0, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    return figure, axes


def _legend(axes: mpl.axes.Axes) -> None:
    """Above the axes, where it covers no curve."""
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _source(figure: Figure, name: str) -> str:
    """The figure as a data URI; the same figure gives the same bytes."""
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
