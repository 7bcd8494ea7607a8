"""The phantom measured and shown: `python benchmarks/phantom.py figures`, `sheets FOLDER`, `beside FOLDER REAL`.

`sheets` draws phantoms alone, for docs/phantom. `beside` sets the real series under REAL beside them; those show patients
and stay on the machine that has the series. Phantoms prove the machinery, never clinical accuracy.
"""

import sys
import time
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from pipeline.archive import Decoder, build_study, list_folder, read_volume, scan_file
from pipeline.config import Config, WindowConfig
from pipeline.phantom import chest
from pipeline.phantom.acquisition import draw_acquisition
from pipeline.phantom.chest import LABELS
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import to_grey

REAL = {"covid": "P001", "bacterial": "cap001", "healthy": "normal001"}
SEED, SEVERITY, COLUMNS, SIDE_PX, CAPTION_PX = 12, 0.6, 6, 220, 20
THRESHOLD_HU, CLOSING_MM = -400, 10.0
CLASSIFIED = 2000


def seconds(matrix, slices):
    """Median processor seconds of three phantoms."""
    spent = []
    for seed in range(3):
        begun = time.process_time()
        chest(seed, LABELS[seed], matrix=matrix, slices=slices)
        spent.append(time.process_time() - begun)
    return float(np.median(spent))


def twins(seeds):
    """(pairs, pairs identical bit for bit outside lesion and effusion)."""
    same = []
    for seed in seeds:
        healthy = chest(seed, "healthy", matrix=128, slices=20).hu
        for label in ("covid", "bacterial"):
            sick = chest(seed, label, matrix=128, slices=20)
            same.append(np.array_equal(sick.hu[~(sick.lesion | sick.effusion)], healthy[~(sick.lesion | sick.effusion)]))
    return len(same), sum(same)


def acquisition_classifier():
    """Accuracy and one-against-rest AUC of a forest, four-fold; labels dealt in turn as the writer deals them."""
    draws = [draw_acquisition(seed) for seed in range(CLASSIFIED)]
    features = [[d.vendor, d.sharp, d.fov_mm, d.thickness_mm, d.noise_hu, d.blur_mm, d.table_mm, d.table_bend] for d in draws]
    labels = np.arange(CLASSIFIED) % 3
    forest = RandomForestClassifier(100, random_state=0)
    chance = cross_val_predict(forest, np.array(features), labels, cv=4, method="predict_proba")
    return float(np.mean(chance.argmax(axis=1) == labels)), float(roc_auc_score(labels, chance, multi_class="ovr"))


def threshold_keeps(label, seeds):
    """Share of lesion voxels in the mask of air below THRESHOLD_HU, closed with a disk of CLOSING_MM radius."""
    held = total = 0
    for seed in seeds:
        phantom = chest(seed, label, matrix=256, slices=20)
        radius = round(CLOSING_MM / phantom.spacing_mm[0])
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        for image, lesion in zip(phantom.hu, phantom.lesion, strict=True):
            mask = cv2.morphologyEx((image < THRESHOLD_HU).astype(np.uint8), cv2.MORPH_CLOSE, disk) > 0
            held, total = held + int((mask & lesion).sum()), total + int(lesion.sum())
    return held / total


def figures():
    """Print every figure of docs/phantom.md."""
    print("twins identical outside lesion and effusion: {1} of {0}".format(*twins(range(4))), flush=True)
    print("acquisition alone, 3 classes: accuracy {:.3f}, AUC {:.3f}".format(*acquisition_classifier()), flush=True)
    for label in ("covid", "bacterial"):
        print(f"threshold mask keeps {threshold_keeps(label, range(6)):.1%} of {label} lesion voxels", flush=True)
    for matrix, slices in ((256, 20), (512, 40)):
        print(f"{matrix} x {matrix} x {slices}: {seconds(matrix, slices):.2f} s", flush=True)


def real_series(folder, name):
    """(hu, z_mm, spacing_mm) of every fourth slice of one series."""
    with Decoder() as decoder:
        records = [record for file in list_folder(folder, name)[1] for record in scan_file(folder, file).records]
        (uid,) = {header.study_uid for record in records for header in record.headers}
        series = build_study(uid, records, Config().series, b"k" * 32).candidates[0]
        volume = read_volume(folder, series, range(0, len(series.slices), 4), decoder)
    return volume.hu, volume.z_mm, volume.spacing_mm


def row(hu, lung, title):
    """Six slices in the lung window, from the lowest that shows much lung to the highest, under their title."""
    area = lung.sum(axis=(1, 2))
    shown = np.flatnonzero(area > 0.25 * area.max())
    at = shown[np.linspace(0, len(shown) - 1, COLUMNS).round().astype(int)]
    strip = np.hstack(
        [cv2.resize(to_grey(hu[i], WindowConfig()), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for i in at]
    )
    caption = np.zeros((CAPTION_PX, strip.shape[1]), np.uint8)
    cv2.putText(caption, title, (4, CAPTION_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)
    return np.vstack([caption, strip])


def histograms(path, groups):
    """One panel a group: {title: {name: HU}} as shares of each."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(groups), figsize=(12, 3.6), sharey=True)
    for panel, (title, curves) in zip(np.atleast_1d(panels), groups.items(), strict=True):
        for name, hu in curves.items():
            share, edges = np.histogram(hu, bins=np.arange(-1024, 201, 16))
            panel.plot(edges[:-1], share / max(len(hu), 1), label=name)
        panel.set(title=title, xlabel="HU")
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def sheets(folder, real=None):
    """Contact sheet and histograms of one phantom a class; with `real`, the real series beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, groups = [], {}
    for label in LABELS:
        phantom = chest(SEED, label, matrix=512, slices=24, severity=SEVERITY)
        rows.append(row(phantom.hu, phantom.lung, f"synthetic, {label}, seed {SEED}, severity {SEVERITY}"))
        groups[label] = {"phantom: lung without lesion": phantom.hu[phantom.lung & ~phantom.lesion]}
        if phantom.lesion.any():
            groups[label]["phantom: lesion"] = phantom.hu[phantom.lesion]
        if real:
            hu, z_mm, spacing_mm = real_series(real, REAL[label])
            lung = lung_masks(hu, z_mm, spacing_mm)
            rows.append(row(hu, lung, f"real, {REAL[label]}, COVID-CT-MD, Afshar et al. 2021"))
            groups[label] |= {"phantom: whole lung": phantom.hu[phantom.lung], "real: our lung mask": hu[lung]}
    cv2.imwrite(str(folder / "sheet.jpg"), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 80])
    histograms(folder / "histograms.png", groups)


def main():
    """Run what the command line names."""
    what, *folders = sys.argv[1:] or ["figures"]
    if what == "figures":
        figures()
    else:
        sheets(*map(Path, folders))


if __name__ == "__main__":
    main()
