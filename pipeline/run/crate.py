"""ro-crate-metadata.json: the run's folder as a Process Run Crate (RO-Crate 1.1), for archives of data and workflow managers.

It says which program made which file with which networks, and of what: the archive by its manifest's digest, never by its path.
What lies in private/ is not of the crate.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pipeline.files import write_whole
from pipeline.records import NOTICE
from pipeline.run.paths import EXCLUSIONS, PATIENTS, REPORT, RESULTS, RUN_TOML, SIDECAR, SLICES, STUDIES
from pipeline.run.run_toml import Described, Network, read_described

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
PROGRAM = "#drenet-pipeline"
ARCHIVE = "#archive"
MADE = {
    STUDIES: ("one row a study", "text/csv"),
    PATIENTS: ("one row a patient", "text/csv"),
    EXCLUSIONS: ("everything left out or remarked on", "text/csv"),
    SLICES: ("one row a scored slice", "application/vnd.apache.parquet"),
    RESULTS: ("all of it in columns, with every detail's box", "application/x-hdf5"),
    SIDECAR: ("what the columns of the CSV tables hold", "application/ld+json"),
    RUN_TOML: ("settings, digests and versions", "application/toml"),
    f"{REPORT}/index.html": ("the run as a page", "text/html"),
}


def write_crate(run: Path) -> None:
    """Write the crate of a gathered run, whole; it names the files that are there."""
    described = read_described(run)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    there = [name for name in MADE if (run / name).is_file()]
    graph = [
        *_root(there, made),
        _action(described, there, made),
        *_subjects(described),
        *(_file(run / name, name) for name in there),
    ]
    crate = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}
    write_whole(run / NAME, msgspec.json.format(msgspec.json.encode(crate), indent=1) + b"\n")


def _root(there: list[str], made: str) -> list[dict[str, Any]]:
    descriptor = {
        "@id": NAME,
        "@type": "CreativeWork",
        "about": _id("./"),
        "conformsTo": _id("https://w3id.org/ro/crate/1.1"),
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": "Screening of chest-CT studies with DRE-Net",
        "description": NOTICE,
        "datePublished": made,
        "license": "not stated: that of the archive's owner",
        "conformsTo": _id(PROFILE),
        "hasPart": [_id(name) for name in there],
        "mentions": [_id("#screening")],
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    return [descriptor, root, profile]


def _action(described: Described, there: list[str], made: str) -> dict[str, Any]:
    return {
        "@id": "#screening",
        "@type": "CreateAction",
        "name": "Screening, and the writing of its tables",
        "endTime": made,
        "instrument": _id(PROGRAM),
        "object": [_id(ARCHIVE), *(_id(_name(network)) for network in described.networks)],
        "result": [_id(name) for name in there if name != RUN_TOML],
    }


def _subjects(described: Described) -> list[dict[str, Any]]:
    """The program, the archive and the networks."""
    program = {
        "@id": PROGRAM,
        "@type": "SoftwareApplication",
        "name": "drenet-pipeline",
        "version": described.code_version,
        "softwareRequirements": [f"{name} {version}" for name, version in described.libraries.items()],
        "license": _id("https://spdx.org/licenses/Apache-2.0"),
    }
    archive = {
        "@id": ARCHIVE,
        "@type": "Dataset",
        "name": "the archive that was screened",
        "identifier": f"manifest sha256 {described.manifest_sha256}",
    }
    return [program, archive, *map(_network, described.networks)]


def _network(network: Network) -> dict[str, Any]:
    """The column says which scores are its."""
    described = f"column {network.column}: {network.meaning or f'probability of {network.positive}'}"
    return {
        "@id": _name(network),
        "@type": "CreativeWork",
        "name": network.task or network.column,
        "description": described,
        "sha256": network.sha256,
    }


def _file(path: Path, name: str) -> dict[str, Any]:
    told, kind = MADE[name]
    size = path.stat().st_size
    return {"@id": name, "@type": "File", "name": name, "description": told, "encodingFormat": kind, "contentSize": str(size)}


def _name(network: Network) -> str:
    return f"#network-{network.column}"


def _id(name: str) -> dict[str, str]:
    return {"@id": name}
