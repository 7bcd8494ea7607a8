"""A page of each of a run's studies, by itself: for who sends one study and wants its answer, not the report of a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_whole
from pipeline.report.panel import study_page, study_value
from pipeline.run.resume import last_records, results_of
from pipeline.run.run_toml import read_described
from pipeline.study.picture_pack import find_pictures, read_deep, read_pictures


def write_study_pages(run: Path, to: Path) -> list[Path]:
    """Write KEY.html into the new folder `to` for every study of the run at `run`; their paths. Raises PipelineError."""
    networks = [network.column for network in read_described(run).networks]
    records = {key: record for key, record in last_records(run).items() if key}
    found = find_pictures(run, {key: record.input for key, record in records.items()})
    results = results_of(run)
    to.mkdir(parents=True)
    paths = [to / f"{result.study_key}.html" for result in results]
    for path, result in zip(paths, results, strict=True):
        key = result.study_key
        pictures = read_pictures(found[key]) if key in found else None
        value = study_value(result, networks, pictures, read_deep(run, key, records[key].input))
        write_whole(path, study_page(value).encode())
    return paths
