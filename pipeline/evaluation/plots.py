"""ROC and precision-recall curves, confusion matrix and calibration as PNG and SVG, by image and by patient."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.calibration import calibration_curve

from pipeline.evaluation.metrics import N_BINS, Scored
from pipeline.records import RESEARCH

NOTICE = f"{RESEARCH} Figures of synthetic patients say nothing about clinical accuracy."
STYLES = {"image": "--", "patient": "-"}


def draw(by_image: Scored, by_patient: Scored, threshold: float) -> list[tuple[str, bytes]]:
    """(file name, bytes) of every picture."""
    from matplotlib.figure import Figure

    curves = Figure(figsize=(13, 4.8), layout="constrained")
    roc, recall, calibration = curves.subplots(1, 3)
    for name, scored in (("image", by_image), ("patient", by_patient)):
        _curves(roc, recall, calibration, (name, scored))
    roc.plot([0, 1], [0, 1], color="grey", linestyle=":")
    roc.set(xlabel="1 - specificity", ylabel="recall", title="ROC")
    recall.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.02))
    calibration.plot([0, 1], [0, 1], color="grey", linestyle=":")
    calibration.set(xlabel="mean probability", ylabel="share of positives", title="calibration")
    for axes in (roc, recall, calibration):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)  # below, where it covers no curve
    matrices = Figure(figsize=(8, 3.8), layout="constrained")
    for axes, (name, scored) in zip(matrices.subplots(1, 2), (("image", by_image), ("patient", by_patient)), strict=True):
        _confusion(axes, name, scored, threshold)
    for figure in (curves, matrices):
        figure.supxlabel(NOTICE, fontsize=7)
    named = (("curves", curves), ("confusion", matrices))
    return [(f"{name}.{kind}", _bytes(figure, kind)) for name, figure in named for kind in ("png", "svg")]


def _curves(roc: Any, recall: Any, calibration: Any, named: tuple[str, Scored]) -> None:
    name, scored = named
    fall_out, hit_rate, _ = metrics.roc_curve(scored.target, scored.score)
    style = STYLES[name]
    roc.plot(fall_out, hit_rate, style, label=f"{name}, AUC {metrics.auc(fall_out, hit_rate):.3f}")
    precision, hits, _ = metrics.precision_recall_curve(scored.target, scored.score)
    recall.plot(hits, precision, style, label=f"{name}, {metrics.average_precision_score(scored.target, scored.score):.3f}")
    share, mean = calibration_curve(scored.target, np.clip(scored.score, 0, 1), n_bins=N_BINS)
    calibration.plot(mean, share, style, marker="s" if name == "image" else "o", label=name)


def _confusion(axes: Any, name: str, scored: Scored, threshold: float) -> None:
    counts = metrics.confusion_matrix(scored.target, scored.score >= threshold, labels=[False, True])
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = count / max(1, counts[row].sum())
        axes.text(column, row, f"{count}\n{share:.0%}", ha="center", va="center", color="white" if share > 0.6 else "black")
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=["below", "above"], yticklabels=["other", "COVID-19"])
    axes.set(xlabel=f"threshold {threshold:.3f}", ylabel="truth", title=f"by {name}")


def _bytes(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120)
    return buffer.getvalue()
