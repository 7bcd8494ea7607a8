"""What the server takes: seconds from an upload's last byte to its numbers, many uploads at once, and random kills.

python -m benchmarks.serve WEIGHTS STUDY.zip --small SMALL.zip --uploads 50 --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

from pipeline.pseudonym import make_key
from tests.serving import Served, serving


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--uploads", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        key = Path(folder) / "key"
        make_key(key)
        with serving(asked.weights, Path(folder) / "spool", *_config(asked), key=key) as served:
            for _ in range(asked.repeats):
                print(_answered(served, asked.study))
            if asked.uploads:
                print(_many(served, asked.small, asked.uploads))
        if asked.kills:
            print(_killed(asked, Path(folder) / "killed", key))


def _config(asked: argparse.Namespace) -> list[str]:
    return ["--config", str(asked.config)] if asked.config else []


def _answered(served: Served, study: Path) -> str:
    data = study.read_bytes()
    id_ = served.accepted([("study.zip", data)])
    begun, spent_s = time.monotonic(), _cpu_s(served)  # the answer 202 comes after the last byte
    while not served.state(id_)["results"]:
        time.sleep(0.02)
    numbers_s, cpu_s = time.monotonic() - begun, _cpu_s(served) - spent_s
    said = served.answer(id_)
    stages = ", ".join(f"{name} {spent:.2f}" for name, spent in said["seconds"].items())
    all_s = time.monotonic() - begun
    asked = f"{len(data) / 1e6:.0f} MB: numbers {numbers_s:.2f} s after the last byte, of which {cpu_s:.2f} s at work"
    return f"{asked}; all {all_s:.2f} s ({stages})"


def _many(served: Served, small: Path, count: int) -> str:
    data, ids, begun = small.read_bytes(), [], time.monotonic()

    def send() -> None:
        ids.append(served.accepted([("study.zip", data)]))

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken_s = time.monotonic() - begun
    said = [served.answer(id_) for id_ in ids]
    waits = sorted(one["ended"] - one["created"] for one in said)
    memory = _peak_mb(served.process.pid), max(_peak_mb(pid) for pid in served.workers())
    done = sum(one["state"] == "done" for one in said)
    p50, p95 = statistics.median(waits), waits[int(0.95 * (len(waits) - 1))]
    return (
        f"{count} uploads of {len(data) / 1e6:.1f} MB at once: taken in {taken_s:.1f} s, {done} answered, p50 {p50:.1f} s, "
        f"p95 {p95:.1f} s; peak memory server {memory[0]:.0f} MB, worker {memory[1]:.0f} MB"
    )


def _cpu_s(served: Served) -> float:
    """CPU seconds of the workers: what a busy machine does not lengthen."""
    total = 0
    for pid in served.workers():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _killed(asked: argparse.Namespace, spool: Path, key: Path) -> str:
    draw, ids, hit = random.Random(1), [], {"server": 0, "worker": 0}
    data, left = asked.small.read_bytes(), asked.kills
    while left:
        with serving(asked.weights, spool, key=key) as served:
            while left:
                ids.append(served.accepted([("study.zip", data)]))
                time.sleep(draw.uniform(0, 3))
                left -= 1
                if draw.random() < 0.5 and served.workers():
                    os.kill(draw.choice(served.workers()), signal.SIGKILL)
                    hit["worker"] += 1
                else:
                    served.process.kill()
                    hit["server"] += 1
                    break
    with serving(asked.weights, spool, key=key) as served:
        states = [(said["state"], said["code"]) for said in map(served.answer, ids)]
    counts = {state: states.count(state) for state in sorted(set(states))}
    return f"{hit} killed: {len(ids)} uploads accepted, ended as {counts}"


if __name__ == "__main__":
    main()
