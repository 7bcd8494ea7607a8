"""Others' way of reading a series, in a process of their own environment: `python peers.py`, then one line a question.

Each line on standard input is a name, a tab and a folder; the answer is a line of JSON: the seconds on the clock and of the
processor, and the shape that was read. Nothing of this project is imported here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def simpleitk(folder: str) -> tuple[int, ...]:
    """SimpleITK's series reader: names in order, the whole volume."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    return SimpleITK.GetArrayFromImage(reader.Execute()).shape


def monai_pydicom(folder: str) -> tuple[int, ...]:
    """MONAI's LoadImage by its pydicom reader."""
    return _monai(folder, "PydicomReader")


def monai_itk(folder: str) -> tuple[int, ...]:
    """MONAI's LoadImage by its ITK reader."""
    return _monai(folder, "ITKReader")


def _monai(folder: str, reader: str) -> tuple[int, ...]:
    from monai.transforms import LoadImage

    return tuple(LoadImage(reader=reader, image_only=True)(folder).shape)


def pydicom_volume(folder: str) -> tuple[int, ...]:
    """The plain way: every file with pydicom, sorted, rescaled, stacked."""
    import numpy as np
    import pydicom

    slices = sorted(map(pydicom.dcmread, Path(folder).iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))
    return np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]).shape


WAYS: dict[str, Callable[[str], tuple[int, ...]]] = {
    "SimpleITK": simpleitk,
    "MONAI, pydicom": monai_pydicom,
    "MONAI, ITK": monai_itk,
    "pydicom": pydicom_volume,
}
LIBRARIES = ("SimpleITK", "monai", "itk", "pydicom")


def answered(name: str, folder: str) -> dict[str, Any]:
    """One reading, timed."""
    clock, cpu = time.perf_counter(), time.process_time()
    shape = WAYS[name](folder)
    return {"clock_s": time.perf_counter() - clock, "cpu_s": time.process_time() - cpu, "shape": shape}


def main() -> None:
    """Say what is installed, answer until standard input ends."""
    said = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not pass for an answer
    print(json.dumps({name: version(name) for name in LIBRARIES}), file=said, flush=True)
    for line in sys.stdin:
        name, _, folder = line.strip().partition("\t")
        print(json.dumps(answered(name, folder)), file=said, flush=True)


if __name__ == "__main__":
    main()
