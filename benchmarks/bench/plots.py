"""Figures -> plots, one a part."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bench.engines import least_seconds
from benchmarks.bench.runs import PLAIN

Figures = dict[str, Any]
OURS, OTHERS, BOUND = "#2b6cb0", "#a0aec0", "#1a202c"


def draw(figures: Figures, folder: Path) -> None:
    """A picture for each part that was measured."""
    for name, drawn in (("engines", engines), ("reading", reading), ("runs", runs), ("syntaxes", syntaxes)):
        if name in figures:
            figure = Figure(figsize=(9, 3.6), layout="constrained")
            drawn(figures[name], figure)
            figure.savefig(folder / f"{name}.png", dpi=100)


def bars(axis: Axes, named: dict[str, float], colours: list[str], unit: str, form: str = "{:.2f}") -> None:
    """Lying bars, the first on top, each with its figure."""
    drawn = axis.barh(list(named), list(named.values()), color=colours)
    axis.bar_label(drawn, labels=[form.format(value) for value in named.values()], padding=3, fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.14)
    axis.set_xlabel(unit)
    axis.spines[["top", "right"]].set_visible(False)


def engines(of: Figures, figure: Figure) -> None:
    """Seconds a study, with a mark where the measured peak would put it."""
    axis = figure.subplots()
    named = {name: one["cpu_s"] for name, one in of["engines"].items()}
    bars(
        axis,
        named,
        [OURS if name.startswith("openvino") else OTHERS for name in named],
        f"processor, s for {of['slices']} slices",
    )
    for row, name in enumerate(named):
        least = least_seconds(name.partition(":")[2], of["slices"] * of["flop_a_slice"], of["peak_flops"])
        axis.plot([least, least], [row - 0.4, row + 0.4], color=BOUND, linewidth=2, label="" if row else "at the measured peak")
    axis.legend(frameon=False, loc="lower right")


def reading(of: Figures, figure: Figure) -> None:
    """Warm and cold, side by side."""
    axes = figure.subplots(1, 2)
    for axis, how, what, unit in zip(axes, ("warm", "cold"), ("cpu_s", "clock_s"), ("processor", "clock"), strict=True):
        named = {name: 1000 * one[what] for name, one in of[how].items()}
        bars(axis, named, [OURS if name.startswith("ours") else OTHERS for name in named], f"{how}, {unit}, ms", "{:,.0f}")
    axes[1].set_yticklabels([])


def runs(of: Figures, figure: Figure) -> None:
    """Studies a second of every kind, and over the ranks."""
    left, right = figure.subplots(1, 2)
    named = {name: statistics.median(one["studies_a_second"] for one in seen) for name, seen in of["kinds"].items()}
    bars(left, named, [OTHERS if name == PLAIN else OURS for name in named], "studies/s on two cores", "{:.3f}")
    ranks = sorted(map(int, of["ranks"]))
    for pair in range(min(len(of["ranks"][str(n)]) for n in ranks)):
        right.plot(ranks, [of["ranks"][str(n)][pair]["studies_a_second"] for n in ranks], "o-", color=OURS, alpha=0.7)
    first = statistics.median(one["studies_a_second"] for one in of["ranks"][str(ranks[0])])
    right.plot(ranks, [first * n / ranks[0] for n in ranks], ":", color=BOUND, label="linear")
    right.set(xlabel="ranks", ylabel=f"studies/s, {of['fastest']}", xticks=ranks, ylim=(0, None))
    right.legend(frameon=False)
    right.spines[["top", "right"]].set_visible(False)


def syntaxes(of: Figures, figure: Figure) -> None:
    """Milliseconds of the processor a study."""
    named = {name: 1000 * one["cpu_s"] for name, one in of["read"].items()}
    bars(figure.subplots(), named, [OURS] * len(named), "processor, ms for fifteen slices", "{:,.0f}")
