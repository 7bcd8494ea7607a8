"""The page: everything of a run that is read once, on one HTML file, with its data files beside it.

The folder is made under another name and put in place whole, so that a reader never meets half a report.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import msgspec
from markupsafe import Markup

from pipeline.files import storage_error
from pipeline.records import DEFAULT_THRESHOLD, MIN_LUNG_FRACTION, NOTICE
from pipeline.report.card import BLANK, card_text, fill_card
from pipeline.report.data import Shown, choose_shown, doubted, write_slices, write_studies
from pipeline.report.evaluation import read_evaluation
from pipeline.report.flow import Flow, read_flow
from pipeline.report.panel import allowed, asset
from pipeline.report.pictures import write_pictures
from pipeline.report.timing import read_timing, slowest_stages
from pipeline.run.gather import payload_digest
from pipeline.run.paths import EXCLUSIONS, PATIENTS, REPORT, RESULTS, RUN_TOML, SLICES, STUDIES
from pipeline.run.read_tables import Run, open_run
from pipeline.run.resume import noted_records
from pipeline.run.run_toml import Described, read_described

if TYPE_CHECKING:  # matplotlib is loaded where something is drawn
    import pandas as pd

    from pipeline.report.compare import Comparison
    from pipeline.report.figures import Chart

PARTS = {
    "overview": "Overview",
    "studies": "Studies",
    "compare": "Against another run",
    "flow": "Flow",
    "charts": "Scores and speed",
    "evaluation": "Evaluation",
    "provenance": "Provenance",
    "card": "Model and run card",
}
FILES = {
    RUN_TOML: "settings, versions, digests",
    STUDIES: "one row a study",
    PATIENTS: "one row a patient",
    SLICES: "one row a scored slice",
    EXCLUSIONS: "what was left out or noted, with its reason",
    RESULTS: "all of it, with every detail",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a report."""

    box_from: float = 0.8
    """Normalised detail score above which a detail is drawn as a box (the paper's figure 4)."""
    pictured: int = 100
    """Most studies whose pictures the report takes from the packs, the highest scores first."""
    rows: int = 200_000
    """Most studies in the page's table, the highest scores first."""
    against: Path | None = None
    """Another run's folder, to be compared with."""


def write_report(folder: Path, options: Options = Options()) -> Path:
    """Make `report/` of the run at `folder`; the page's path. Raises ConfigurationError where nothing was gathered."""
    run = open_run(folder)
    unfinished = folder / ".report.part"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write(run, unfinished, options)
        return _put_in_place(unfinished, folder / REPORT) / "index.html"
    except OSError as error:
        raise storage_error(error, folder) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(run: Run, unfinished: Path, options: Options) -> None:
    described = read_described(run.folder)
    networks = [network.column for network in run.networks]
    records = noted_records(run.folder)
    timing = read_timing(run.folder, records)
    flow = read_flow(run)
    stages = slowest_stages(timing)
    pictured = write_pictures(unfinished / "data", run, networks, records, options.pictured)
    shown = choose_shown(run.studies, networks, options.rows, pictured | set(stages["worst_study"]))
    write_studies(unfinished / "data", shown, networks, pictured, timing, Shown(options.box_from, MIN_LUNG_FRACTION))
    write_slices(unfinished / "data", shown, run, networks)
    evaluation = read_evaluation(run.folder)
    card = fill_card(run, described, flow, options.box_from, evaluated=evaluation is not None)
    optional = {"evaluation": evaluation, "compare": _compared(run, options.against)}
    page = template().render(
        **optional,
        run=described,
        parts=[(name, title) for name, title in PARTS.items() if optional.get(name, True)],
        tiles=_tiles(run, flow),
        flow=flow,
        charts=_charts(run, networks, timing),
        n_shown=len(shown),
        n_doubted=int(doubted(shown).sum()),
        n_studies=len(run.studies),
        stages=stages.to_dict("records"),
        provenance=_provenance(described, run.folder),
        configuration=msgspec.toml.encode(described.config).decode(),
        card={name: [one for one in card if one.of == name] for name in dict.fromkeys(one.of for one in card)},
        blank=BLANK,
        files=_files(run.folder),
        notice=NOTICE,
    )
    (unfinished / "card.md").write_text(card_text(card), encoding="utf-8")
    (unfinished / "index.html").write_text(page, encoding="utf-8")


def _compared(run: Run, against: Path | None) -> Comparison | None:
    if against is None:
        return None
    from pipeline.report.compare import compare

    return compare(run, against)


def _charts(run: Run, networks: list[str], timing: pd.DataFrame) -> list[Chart]:
    """The run's charts; a single study has neither a distribution nor a rate."""
    if len(run.studies) < 2:
        return []
    from pipeline.report.figures import charts

    return charts(run.studies, networks, timing)


@cache
def template() -> jinja2.Template:
    """The page's, compiled."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(asset("page.html.j2"))
    css = asset("panel.css") + asset("page.css")
    js = asset("panel.js") + asset("table.js")
    template.globals.update(
        number=_number,
        css=Markup(css),  # noqa: S704  our own files
        js=Markup(js),  # noqa: S704
        css_sha256=Markup(allowed(css)),  # noqa: S704
        js_sha256=Markup(allowed(js)),  # noqa: S704
    )
    return template


def _files(run: Path) -> list[tuple[str, str]]:
    """(name, what it is) of the run's files that may travel; what a later version adds is named only."""
    names = sorted(path.name for path in run.iterdir() if path.is_file() and not path.name.startswith("."))
    evaluated = sorted((run / "evaluation").rglob("*"))
    names += [path.relative_to(run).as_posix() for path in evaluated if path.is_file()]
    return [(name, FILES.get(name, "")) for name in names]


def _tiles(run: Run, flow: Flow) -> list[tuple[str, str, str]]:
    """(name, value, note) of the numbers on top."""
    studies = run.studies
    by_status = studies["status"].value_counts()
    tiles = [
        ("files found", _number(flow.files[0].count), ""),
        ("studies", _number(len(studies)), f"of {_number(len(run.patients))} patients"),
        ("scored", _number(flow.studies[-1].count), f"{_number(by_status.get('OK_WITH_WARNINGS', 0))} with warnings"),
        ("excluded", _number(by_status.get("EXCLUDED", 0)), "sound, nothing to screen"),
        ("failed", _number(by_status.get("FAILED", 0)), "broken"),
    ]
    for one in run.networks:
        if one.threshold is None:
            tiles.append(
                (
                    f"{one.column} at least {DEFAULT_THRESHOLD}",
                    _number(int((studies[one.column] >= DEFAULT_THRESHOLD).sum())),
                    "studies",
                )
            )
        else:
            name = f"{one.column} at or above its threshold, {one.threshold:.3f}"
            tiles.append((name, _number(int(studies[one.above].sum())), "studies"))
    return tiles


def _provenance(described: Described, folder: Path) -> list[tuple[str, str]]:
    networks = [
        (
            f"network of {network.column}",
            f"weights sha256 {network.sha256}, positive class “{network.positive}” of {', '.join(network.classes)}"
            + "".join(f"; {said}" for said in (network.task, network.meaning) if said)
            + ("" if network.threshold is None else f"; threshold {network.threshold:.3f}"),
        )
        for network in described.networks
    ]
    libraries = ", ".join(f"{name} {version}" for name, version in described.libraries.items())
    engine = described.config.engine
    return [
        ("drenet-pipeline", described.code_version),
        *networks,
        ("engine", f"{engine.name}, {engine.precision}, {engine.threads} threads a rank"),
        ("results, sha256", payload_digest(folder)),
        ("configuration, sha256", described.configuration_sha256),
        ("manifest, sha256", described.manifest_sha256),
        ("pseudonym key, fingerprint", described.key_fingerprint),
        ("libraries", libraries),
    ]


def _number(value: int) -> str:
    return f"{value:,}"


def _put_in_place(unfinished: Path, final: Path) -> Path:
    old = final.with_name(".report.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    unfinished.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return final
