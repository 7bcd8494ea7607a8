"""What a leg costs beside its studies: from the start to the first study begun, and from the request to stop to the end.

python benchmarks/leg.py ARCHIVE WEIGHTS [--ranks 2] [--legs 3]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.run.journal import journal_files, read_lines


def leg(command: list[str], out: Path) -> tuple[float, float]:
    """(seconds to the first study, seconds from the request to the end) of one start on `out`."""
    begun, before = time.time(), set(_first(out))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (fresh := [start for start in _first(out) if start not in before]):
        time.sleep(0.05)
    asked = time.time()
    process.send_signal(signal.SIGUSR1)
    code = process.wait()
    if code != os.EX_TEMPFAIL:
        raise SystemExit(f"the leg ended with {code}: give it an archive of more studies")
    return min(fresh) - begun, time.time() - asked


def _first(out: Path) -> list[float]:
    """When each recorded study was begun."""
    return [
        line.ended - sum(line.seconds.values())
        for path in journal_files(out)
        for _, line in read_lines(path)
        if line.result is not None and line.seconds
    ]


def main() -> None:
    """Run the legs, print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive")
    parser.add_argument("weights")
    parser.add_argument("--ranks", default="2")
    parser.add_argument("--legs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        screen = ["screen", options.archive, "--weights", options.weights, "--out", str(out), "--ranks", options.ranks]
        costs = [leg([sys.executable, "-m", "pipeline", *screen], out) for _ in range(options.legs)]
    for number, (start_s, drain_s) in enumerate(costs, 1):
        share = (start_s + drain_s) / 3600
        print(f"leg {number}: start {start_s:.1f} s, drain {drain_s:.1f} s, together {share:.2%} of an hour")


if __name__ == "__main__":
    main()
