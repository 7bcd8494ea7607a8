"""The course of a training run as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pipeline.files import write_whole
from pipeline.training.losses import PARTS
from pipeline.training.state import State


def draw_curves(path: Path, state: State) -> None:
    """Losses by part over steps (smoothed), validation AUC over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.array(state.steps).reshape(-1, 2 + len(PARTS))
    window = max(1, len(steps) // 100)
    kernel = np.ones(window) / window
    for column, name in enumerate(PARTS, start=2):
        if steps[:, column].any():
            left.plot(np.convolve(steps[:, column], kernel, mode="valid"), label=name)
    left.set(xlabel="step", ylabel=f"loss (mean of {window})", yscale="log")
    left.legend()
    epochs = np.array(state.epochs).reshape(-1, 4)
    right.plot(epochs[:, 0], epochs[:, 3], marker="o")
    right.set(xlabel="epoch", ylabel="validation AUC by patient", ylim=(0.4, 1.02))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())
