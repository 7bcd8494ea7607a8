"""The course of a training run: as a picture, and as the series of numbers that picture and event files show."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.files import write_whole
from pipeline.training.losses import PARTS, TEACHES
from pipeline.training.state import EPOCH, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = npt.NDArray[np.float64]
MOST = 1000
"""Points of a curve; more steps are shown by the means of several."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A series of numbers: `value` at `step`, counted from the training's beginning."""

    step: Numbers
    value: Numbers


def term_curves(state: State) -> dict[str, Curve]:
    """What each term of the loss was, by name, but those that were always 0; means of several steps where there are many."""
    steps = np.array(state.steps).reshape(-1, 2 + len(PARTS))
    window = max(1, -(-len(steps) // MOST))
    starts = np.arange(0, len(steps), window)
    counts = np.diff(np.append(starts, len(steps)))
    found = {}
    for column, name in enumerate(PARTS, start=2):
        if steps[:, column].any():
            means = (np.add.reduceat(steps[:, column], starts) / counts).astype(np.float64)
            found[name] = Curve((starts + counts - 1).astype(np.float64), means)
    return found


def validation_curves(state: State) -> dict[str, Curve]:
    """AUC and loss of the validation patients after each epoch; the loss is missing for epochs of older versions."""
    epochs = np.array(state.epochs).reshape(-1, len(EPOCH))
    ends = np.cumsum(epochs[:, 1]) - 1
    known = np.isfinite(epochs[:, 4])
    return {"auc": Curve(ends, epochs[:, 3]), "loss": Curve(ends[known], epochs[known, 4])}


def trained_curve(state: State) -> Curve:
    """By epoch, the training slices' mean of that term which the validation loss is to be held against: that of the answer."""
    steps = np.array(state.steps).reshape(-1, 2 + len(PARTS))
    ends, values = [], []
    for epoch in np.unique(steps[:, 0]):
        rows = steps[:, 0] == epoch
        concat = steps[rows, 2 + PARTS.index("concat")]
        answer = concat if concat.any() else steps[rows, 2 + PARTS.index("raw")]  # in trunk epochs, and of the baselines
        ends.append(float(np.flatnonzero(rows)[-1]))
        values.append(float(answer.mean()))
    return Curve(np.array(ends), np.array(values))


def jump(state: State) -> int | None:
    """The step with which the terms of the details come in after trunk epochs; None where they are there from the beginning."""
    ranked = np.flatnonzero(np.array(state.steps).reshape(-1, 2 + len(PARTS))[:, 2 + PARTS.index("rank")])
    return int(ranked[0]) if ranked.size and ranked[0] > 0 else None


def draw_curves(path: Path, state: State) -> None:
    """Every term of the loss over steps, and over epochs the loss and AUC of the validation patients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    terms, losses, areas = figure.subplots(1, 3)
    _draw_terms(terms, state)
    validation = validation_curves(state)
    for label, curve in (("training slices", trained_curve(state)), ("validation patients", validation["loss"])):
        losses.plot(curve.step, curve.value, marker="o", markersize=3, label=label)
    losses.set(xlabel="step", ylabel="cross entropy of the network's answer", title="loss by epoch")
    losses.set_ylim(bottom=0)
    losses.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1, fontsize="small")
    areas.plot(validation["auc"].step, validation["auc"].value, marker="o", markersize=3)
    areas.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    areas.set(xlabel="step", ylabel="AUC by patient", title="validation AUC (dotted: chance)", ylim=(-0.02, 1.02))
    for axes in (losses, areas):
        _mark_jump(axes, state)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())


def _draw_terms(axes: Axes, state: State) -> None:
    for name, curve in _smoothed(term_curves(state)):
        axes.plot(curve.step, curve.value, label=f"{name}: {TEACHES[name]}")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="terms of the loss; their sum is what is trained on")
    _mark_jump(axes, state)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1, fontsize="small")  # below: covers no curve


def _mark_jump(axes: Axes, state: State) -> None:
    from matplotlib.ticker import MaxNLocator

    if (step := jump(state)) is not None:
        label = "trunk epochs end, concat and rank come in: the sum jumps"
        axes.axvline(step, color="grey", linewidth=0.8, linestyle="--", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _smoothed(curves: dict[str, Curve]) -> Iterator[tuple[str, Curve]]:
    """Each curve by the mean of a hundredth of it, within itself."""
    for name, curve in curves.items():
        window = max(1, len(curve.value) // 100)
        kernel = np.ones(window) / window
        there = np.where(curve.value > 0, curve.value, np.nan)  # a term that is not in use yet is no line
        yield name, Curve(curve.step[window - 1 :], np.convolve(there, kernel, mode="valid"))
