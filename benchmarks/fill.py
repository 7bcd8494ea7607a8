"""Whether the fill betrays the contour: `python benchmarks/fill.py [phantoms] [picture.png]`.

Each slice is shown in two contours, the lung's own and one with notches, unfilled and filled. Three classifiers try to tell the
contours apart: a linear one on histograms of gradients, one that is told both contours to the pixel and looks at the gradient
along them, and one that compares grey on both sides of them. AUC with phantoms kept apart; 0.5 is chance.
Phantoms prove the machinery, never clinical accuracy.
"""

import sys

import cv2
import numpy as np
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.config import FillConfig, WindowConfig
from pipeline.phantom import chest
from pipeline.study.fill import fill
from pipeline.study.slices import to_grey, without_rim

NOTCHES, NOTCH_PX = 6, 16


def contours(lung, generator):
    """(the lung, the lung with round notches in its outline), both without their outermost rim."""
    outline = np.argwhere(lung & (cv2.erode(lung.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0))
    notches = np.zeros(lung.shape, np.uint8)
    for row, column in outline[generator.integers(len(outline), size=NOTCHES)]:
        cv2.circle(notches, (int(column), int(row)), NOTCH_PX, 1, -1)
    return lung, lung & (notches == 0)


def shown(n):
    """(picture, its two contours, number of its phantom) of slices of `n` healthy phantoms."""
    for number in range(n):
        phantom = chest(5000 + number, "healthy", matrix=512, slices=9)
        generator = np.random.default_rng(number)
        for at in (3, 4, 5):
            rows, columns = (np.flatnonzero(phantom.lung[at].any(axis=axis)) for axis in (1, 0))
            crop = slice(max(0, rows[0] - 13), rows[-1] + 14), slice(max(0, columns[0] - 13), columns[-1] + 14)
            rimless = (without_rim(mask, phantom.spacing_mm[0]) for mask in contours(phantom.lung[at][crop], generator))
            yield to_grey(phantom.hu[at], WindowConfig())[crop], tuple(rimless), number


def steps(picture, contour):
    """Mean gradient along a contour, and mean leap of grey across it."""
    grey = picture.astype(np.float32)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    mask, cross = contour.astype(np.uint8), np.ones((3, 3), np.uint8)
    inner, outer = mask - cv2.erode(mask, cross), cv2.dilate(mask, cross) - mask
    inner[[0, -1]] = inner[:, [0, -1]] = outer[[0, -1]] = outer[:, [0, -1]] = 0
    along = gradient[(inner | outer) > 0].mean()
    return along, abs(grey[inner > 0].mean() - grey[outer > 0].mean())


def looked_at(picture, pair):
    """Features for the three classifiers."""
    known = [steps(picture, contour) for contour in pair]
    differ = [known[0][kind] - known[1][kind] for kind in (0, 1)]
    small = cv2.resize(picture, (192, 192), interpolation=cv2.INTER_AREA)
    return hog(small, 9, (16, 16), (2, 2)), [differ[0]], [differ[1]]


def area(features, label, group):
    """AUC of a linear classifier, folds by phantom."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    score = cross_val_predict(model, features, label, groups=group, cv=GroupKFold(5), method="decision_function")
    return roc_auc_score(label, score)


def main():
    """Print the table; save a picture of one slice four ways where asked to."""
    cv2.setNumThreads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    found, label, group = {"unfilled": [], "filled": []}, [], []
    for at, (picture, pair, number) in enumerate(shown(n)):
        four = []
        for kind, contour in enumerate(pair):
            filled = fill(picture, contour, FillConfig(), np.random.default_rng([at, kind]))
            for way, image in (("unfilled", picture * contour), ("filled", filled)):
                found[way].append(looked_at(image, pair))
                four.append(image)
            label.append(kind)
            group.append(number)
        if at == 1 and len(sys.argv) > 2:
            cv2.imwrite(sys.argv[2], np.vstack([np.hstack(four[::2]), np.hstack(four[1::2])]))
    print(f"{len(label)} pictures of {n} phantoms")
    print("| AUC | gradient histograms | gradient along known contours | grey across them |")
    for way, features in found.items():
        areas = [area(np.array(one), np.array(label), np.array(group)) for one in zip(*features, strict=True)]
        print(f"| {way} | " + " | ".join(f"{value:.2f}" for value in areas) + " |")


if __name__ == "__main__":
    main()
