"""The lung mask on real series: `python benchmarks/lung_real.py points DATA`, `areas DATA`, `sheets DATA FOLDER`.

DATA holds points.csv beside covid-ct-md, and perhaps `unseen` with a points.csv and a slices.csv of its own. Sheets show
patients: they go where they are told to, never into the project.
"""

import csv
import sys
from pathlib import Path

import cv2
import numpy as np

from pipeline.archive import Decoder, build_study, list_folder, read_volume, scan_file
from pipeline.config import SeriesConfig, SliceConfig
from pipeline.study.lungs import lung_masks
from pipeline.study.slices import choose_slices

RECIPES = ("chest-wall", "published")
LENIENT = SeriesConfig(min_slices=1, min_extent_mm=0.0, max_spacing_mm=1000.0, kernels="any")
"""Series that were cut down to some slices are read none the less."""
SHOWN_HU = (-1000, 300)
TILE_PX, COLUMNS = 400, 5
SHEET = """<!doctype html><meta charset="utf-8"><title>Lung masks</title>
<style>body{{background:#111;color:#ddd;font:14px sans-serif}}img{{max-width:100%}}</style>
<h1>Lung masks on real series</h1><p>Research use only, not a medical device.</p>{body}"""


def rows_of(path):
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def folders(data):
    """(root of the series, the folder of their points) of what is there."""
    pairs = [(data / "covid-ct-md", data), (data / "unseen", data / "unseen")]
    return [(root, points) for root, points in pairs if (points / "points.csv").exists() and root.exists()]


def read_series(root, name):
    """(hu, z_mm, spacing_mm) of every slice of one series."""
    with Decoder() as decoder:
        records = [record for file in list_folder(root, name)[1] for record in scan_file(root, file).records]
        (uid,) = {header.study_uid for record in records for header in record.headers}
        chosen = build_study(uid, records, LENIENT, b"k" * 32).candidates[0]
        volume = read_volume(root, chosen, range(len(chosen.slices)), decoder)
    return volume.hu, volume.z_mm, volume.spacing_mm


def screened(points, name, z_mm):
    """The places that a run would read: as slices.csv says of a series that was cut down, else the fifteen."""
    listed = points / "slices.csv"
    if not listed.exists():
        return np.array(choose_slices(z_mm, SliceConfig()))
    read = [float(row["z_mm"]) for row in rows_of(listed) if row["series"] == name and row["role"] == "read"]
    return np.array(sorted({int(np.argmin(np.abs(z_mm - z))) for z in read}))


def through(places, place):
    """`places`, moved so that they meet `place`: a point may lie between those that a run reads of a whole series."""
    moved = places + (place - places[np.argmin(np.abs(places - place))])
    return moved[(moved >= 0) & (moved <= places[-1] + np.diff(places).max())]


def verdict(given, points, row, recipe):
    """Whether the point of `row` is in the mask of `recipe` where it should be."""
    hu, z_mm, spacing_mm = given
    place = int(np.argmin(np.abs(z_mm - float(row["z_mm"]))))
    places = through(screened(points, row["series"], z_mm), place)
    places = places[places < len(z_mm)]
    masks = lung_masks(hu[places], z_mm[places], spacing_mm, recipe)
    inside = masks[int(np.flatnonzero(places == place)[0]), int(row["y_px"]), int(row["x_px"])]
    return bool(inside) == (row["expected"] == "inside")


def points(data):
    """One line a point, and how many are right."""
    for recipe in RECIPES:
        right = []
        for root, folder in folders(data):
            series = {}
            for row in rows_of(folder / "points.csv"):
                if row["series"] not in series:
                    series = {row["series"]: read_series(root, row["series"])}
                right.append(verdict(series[row["series"]], folder, row, recipe))
                said = "right" if right[-1] else "WRONG"
                print(
                    f"{recipe},{row['series']},{row['z_mm']},{row['x_px']},{row['y_px']},{row['expected']},{said},{row['what']}"
                )
        print(f"{recipe}: {sum(right)} of {len(right)} points right")


def each_series(data):
    """(name, hu, masks, z_mm, spacing_mm) of what a run would read of every series."""
    for root, folder in folders(data):
        for name in dict.fromkeys(row["series"] for row in rows_of(folder / "points.csv")):
            hu, z_mm, spacing_mm = read_series(root, name)
            places = screened(folder, name, z_mm)
            masks = lung_masks(hu[places], z_mm[places], spacing_mm)
            yield name, hu[places], masks, z_mm[places], spacing_mm


def areas(data):
    """One line a slice: how much of it the mask holds, and how dense that is."""
    print("series,z_mm,cm2,mean_hu")
    for name, hu, masks, z_mm, spacing_mm in each_series(data):
        for image, mask, z in zip(hu, masks, z_mm, strict=True):
            cm2 = mask.sum() * np.prod(spacing_mm) / 100
            print(f"{name},{z:.1f},{cm2:.0f},{image[mask].mean() if mask.any() else float('nan'):.0f}")


def tile(image, mask, caption):
    """One slice with its mask's outline."""
    low, high = SHOWN_HU
    grey = np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    shown = cv2.cvtColor(cv2.resize(grey, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    large = cv2.resize(mask.astype(np.uint8), (TILE_PX, TILE_PX), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, (0, 0, 255), 1)
    cv2.putText(shown, caption, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 255), 1, cv2.LINE_AA)
    return shown


def sheet(hu, masks, z_mm, pixel_cm2):
    """All slices of one series on one picture."""
    tiles = [
        tile(image, mask, f"z {z:.1f}  {mask.sum() * pixel_cm2:.0f} cm2")
        for image, mask, z in zip(hu, masks, z_mm, strict=True)
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[at : at + COLUMNS]) for at in range(0, len(tiles), COLUMNS)])


def sheets(data, folder):
    """A picture a series, and a page that shows them all."""
    folder.mkdir(parents=True, exist_ok=True)
    body = []
    for name, hu, masks, z_mm, spacing_mm in each_series(data):
        cv2.imwrite(str(folder / f"{name}.png"), sheet(hu, masks, z_mm, np.prod(spacing_mm) / 100))
        body.append(f'<h2>{name}</h2><img src="{name}.png" alt="{name}">')
    (folder / "index.html").write_text(SHEET.format(body="".join(body)), encoding="utf-8")


def main():
    """Run what the command line names."""
    cv2.setNumThreads(1)
    what, data, *more = sys.argv[1:]
    if what == "sheets":
        sheets(Path(data), Path(more[0]))
    else:
        {"points": points, "areas": areas}[what](Path(data))


if __name__ == "__main__":
    main()
