"""The model and run card: what TRIPOD+AI and CLAIM ask, answered from the run, blank where only a person can answer."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from pipeline.records import NOTICE
from pipeline.report.flow import Flow
from pipeline.run.read_tables import Run
from pipeline.run.run_toml import Described, Network

BLANK = "______ (to be filled in by a person)"
JUDGED = {"network": ", organs taken out of it by a network", "none": ""}
"""What the card says of a mask that was judged so."""
MOST = 8
"""Different values that a line of the card lists."""


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """One item of a checklist; `says` is None where only a person can answer."""

    of: str
    number: str
    asks: str
    says: str | None


def fill_card(run: Run, described: Described, flow: Flow, box_from: float, *, evaluated: bool) -> list[CardAnswer]:
    """The card of one run, item by item."""
    facts = {**_numbers(run, flow), **_settings(described), "box_from": box_from}
    found = "Measured against the labels: see the evaluation." if evaluated else "Not measured in this run."
    has_labels = bool(run.studies["label"].notna().any())
    labels = "Labels came with the archive." if has_labels else "No labels came with the archive."
    facts |= {"evaluation": found, "labels": labels}
    items = tomllib.loads((files("pipeline.report") / "assets" / "card.toml").read_text(encoding="utf-8"))["item"]
    return [CardAnswer(item["of"], item["number"], item["asks"], _filled_in(item, facts)) for item in items]


def card_text(card: list[CardAnswer]) -> str:
    """The card as Markdown, to be completed by hand."""
    lines = ["# Model and run card", "", NOTICE, ""]
    for name in dict.fromkeys(answer.of for answer in card):
        lines += [f"## {name}", "", "| item | asks | says |", "|---|---|---|"]
        lines += [f"| {one.number} | {one.asks} | {(one.says or BLANK).replace('|', '/')} |" for one in card if one.of == name]
        lines += [""]
    return "\n".join(lines)


def _filled_in(item: dict[str, str], facts: dict[str, Any]) -> str | None:
    return item["says"].format_map(facts) if "says" in item else None


def _numbers(run: Run, flow: Flow) -> dict[str, str]:
    studies = run.studies
    thick = studies["slice_thickness_mm"].dropna()
    lost = [f"{loss.reason} {loss.count:,}" for step in flow.studies for loss in step.losses]
    return {
        "n_files": f"{flow.files[0].count:,}",
        "n_studies": f"{len(studies):,}",
        "n_patients": f"{len(run.patients):,}",
        "n_chosen": f"{flow.studies[1].count:,}",
        "n_scored": f"{flow.studies[2].count:,}",
        "n_slices": f"{int(studies['n_slices_scored'].sum()):,}",
        "n_excluded": f"{int((studies['status'] == 'EXCLUDED').sum()):,}",
        "n_failed": f"{int((studies['status'] == 'FAILED').sum()):,}",
        "reasons": ", ".join(lost) or "none",
        "makers": _listed(studies["manufacturer"]),
        "kernels": _listed(studies["kernel"]),
        "thickness": f"{thick.min():g} to {thick.max():g}" if len(thick) else "of unknown",
    }


def _settings(described: Described) -> dict[str, Any]:
    config = described.config
    networks = described.networks
    window = config.window
    fill = config.fill
    grey = f"window {window.width_hu:g} HU wide at {window.level_hu:g}" if window.kind == "window" else "8-bit mapping"
    judged = JUDGED[config.lung.judge] if config.lung.recipe == "chest-wall" else ""
    preparation = (
        f"{config.slices.count} equally spaced slices, HU, {grey}, lung found by the {config.lung.recipe} recipe{judged},"
        f" crop to the lung, the blank around it filled ({fill.kind}, {fill.copies} copies), resized to {window.image_px}"
        " pixels."
    )
    meanings = [f"{one.column}: weights sha256 {one.sha256}, {one.meaning or 'trained'}" for one in networks]
    return {
        **{name: getattr(config.series, name) for name in ("min_slices", "min_extent_mm", "max_spacing_mm")},
        **{
            name: getattr(described, name)
            for name in ("code_version", "configuration_sha256", "manifest_sha256", "key_fingerprint")
        },
        "preparation": preparation,
        "networks": "; ".join(meanings),
        "n_networks": len(networks),
        "thresholds": _thresholds(networks),
        "positives": ", ".join(one.positive for one in networks),
        "libraries": ", ".join(f"{name} {version}" for name, version in described.libraries.items()),
        "engine": f"{config.engine.name} {config.engine.precision}",
        "count": config.slices.count,
        "keep": f"{config.slices.keep_fraction:.0%}",
        "image_px": window.image_px,
    }


def _thresholds(networks: list[Network]) -> str:
    """Which operating points the tables apply."""
    applied = [f"{one.above} is 1 from {one.threshold:.3f} on" for one in networks if one.threshold is not None]
    without = [one.column for one in networks if one.threshold is None]
    said = [f"To {', '.join(without)} no threshold is applied"] if without and applied else []
    if not applied:
        return "No threshold is applied."
    return f"Thresholds are those that the checkpoints state: {'; '.join([*applied, *said])}."


def _listed(column: pd.Series[Any]) -> str:
    """The commonest values with their numbers."""
    counts = column.dropna().astype(str).value_counts()
    more = f" and {len(counts) - MOST} more" if len(counts) > MOST else ""
    return ", ".join(f"{name} ({count:,})" for name, count in counts.head(MOST).items()) + more or "unknown"
