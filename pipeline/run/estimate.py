"""How long a run will take and how much it will write, from its manifest and what studies took, here or in another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ClusterConfig, RunConfig
from pipeline.errors import ConfigurationError
from pipeline.run.manifest import read_manifest
from pipeline.run.paths import PRIVATE
from pipeline.run.resume import noted_records
from pipeline.study.pictures import MAX_DEEP_BYTES

START_S = 60.0
"""Starting, indexing again and gathering; measured in docs/cluster.md, with room."""
PICTURED = 100
"""Studies that the report shows with pictures, as many as there are up to this."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run still needs; `study_s` is the mean a rank takes over a study, over `n_measured` of them."""

    n_open: int
    n_measured: int
    study_s: float
    slowest_s: float
    walltime_s: float
    node_hours: float
    output_bytes: float


def estimate(run: Path, measured: Path, cluster: ClusterConfig, config: RunConfig) -> Estimate:
    """For the run at `run`, by the studies of the run at `measured`. Raises ConfigurationError where nothing was measured."""
    manifest = read_manifest(run / PRIVATE)
    finished = {key: record for key, record in noted_records(run).items() if record.status and not record.transient}
    ready = [entry for entry in manifest.entries if entry.status == "READY"]
    n_open = sum(entry.study_key not in finished for entry in ready)
    seconds = [record.seconds for record in noted_records(measured).values() if record.seconds > 0]
    if not seconds:
        raise ConfigurationError(
            f"no study of {measured} was timed yet: screen some of the archive first, or name such a run with --measured"
        )
    study_s = sum(seconds) / len(seconds)
    slowest_s = max(seconds)
    n_ranks = cluster.nodes * cluster.ranks_per_node
    n_working = n_ranks if n_ranks <= config.root_computes_up_to else n_ranks - 1
    per_job = -(-n_open // cluster.parts)
    walltime_s = START_S + per_job * study_s / n_working + slowest_s
    node_hours = walltime_s * cluster.nodes * cluster.parts / 3600
    a_rank = config.images_mb * 1e6 + config.images_top * MAX_DEEP_BYTES
    written = _written(measured, len(seconds), len(ready), a_rank * n_ranks * cluster.parts)
    return Estimate(n_open, len(seconds), study_s, slowest_s, walltime_s, node_hours, written)


def _written(measured: Path, n_measured: int, n: int, most_pictures: float) -> float:
    """Bytes of a run of `n` studies: journals, manifest and tables grow with it, pictures and report up to their bounds."""
    size = {"images": 0, "report": 0, "private": 0, "rest": 0}
    for path in measured.rglob("*"):
        if path.is_file():
            top = path.relative_to(measured).parts[0]
            size[top if top in size else "rest"] += path.stat().st_size
    pictures = min(size["images"] / n_measured * n, most_pictures)
    report = size["report"] / min(n_measured, PICTURED) * min(n, PICTURED)
    indexed = size["private"] / len(read_manifest(measured / PRIVATE).entries) * n
    return size["rest"] / n_measured * n + indexed + pictures + report
