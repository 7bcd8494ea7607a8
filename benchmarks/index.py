"""How fast headers are read beside pydicom, and what root's memory grows to a file: `python benchmarks/index.py [FOLDER]`.

Without a folder of DICOM files a synthetic one is written. The rates are of one core with a warm cache, interleaved in one run.
"""

import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

import msgspec
from msgspec.structs import replace
from pydicom import dcmread

from pipeline.archive import list_folder, scan_file
from pipeline.archive.tags import WANTED
from pipeline.phantom import write_archive
from pipeline.run.scan_cache import Catalogue

N_MEMORY = 50_000


def rates(folder: Path) -> tuple[float, float]:
    """Files a second: our walk, pydicom with the same tags and their values."""
    _, files, _ = list_folder(folder, "")
    ours, theirs = [], []
    for _ in range(7):
        start = time.perf_counter()
        for file in files:
            scan_file(folder, file)
        middle = time.perf_counter()
        for file in files:
            data = dcmread(folder / file.path, stop_before_pixels=True, specific_tags=list(WANTED))
            for element in data:
                _ = element.value
        ours.append(len(files) / (middle - start))
        theirs.append(len(files) / (time.perf_counter() - middle))
    return median(ours), median(theirs)


def bytes_a_file(folder: Path, private: Path) -> float:
    """Root's memory for each file taken in, studies of 300 files."""
    _, files, _ = list_folder(folder, "")
    read = scan_file(folder, files[0])
    with Catalogue(private) as catalogue:
        tracemalloc.start()
        for number in range(N_MEMORY):
            study = f"1.2.840.99999.{number // 300}.1234567890123456789"
            found = replace(read, path=f"patient{number // 300}/IM{number:06d}.dcm", studies=(study,))
            catalogue.add(msgspec.json.encode(found))
        first = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    tracemalloc.start()
    with Catalogue(private):
        again = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (first + again) / N_MEMORY


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "a" / "CANARYFOLDER0000" / "CT"
        if len(sys.argv) < 2:
            write_archive(Path(scratch) / "a", studies=1, matrix=128, slices=150)
        ours, theirs = rates(folder)
        print(f"headers: {ours:,.0f} files/s; pydicom {theirs:,.0f} files/s; ratio {ours / theirs:.1f}")
        private = Path(scratch) / "run" / "private"
        private.mkdir(parents=True)
        print(f"root's memory: {bytes_a_file(folder, private):,.0f} bytes a file that an earlier scan knew")


if __name__ == "__main__":
    main()
