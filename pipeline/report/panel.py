"""One study's panel by itself: the same code that the run's page shows a study with, for who has one study and no run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from pipeline.records import NOTICE, StudyResult
from pipeline.report.data import AS_PUBLISHED, COLUMNS, SCORE, Shown
from pipeline.report.pictures import deep_value, details_of, pictures_value
from pipeline.study.pictures import DeepPictures, StudyPictures

FACTS = ("study_key", "patient_key", "status", "reason", "n_slices_scored")


def asset(name: str) -> str:
    """A file that pages are made of."""
    return (files("pipeline.report") / "assets" / name).read_text(encoding="utf-8")


def allowed(text: str) -> str:
    """The source expression by which a page's content security policy lets this very script or style in."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def study_value(
    result: StudyResult,
    networks: list[str],
    pictures: StudyPictures | None = None,
    deep: DeepPictures | None = None,
    shown: Shown = AS_PUBLISHED,
) -> dict[str, Any]:
    """What `studyPanel` of panel.js wants of one study, for JSON; `deep` is to be made a function by the page.

    `networks` names the probabilities, in the order of the result's.
    """
    scores = [
        [one.slice_index, round(one.z_mm, 4), round(one.lung_area_mm2 / 100, 1)]
        + [round(of.probability, 4) for of in one.predictions]
        for one in result.slices
    ]
    return {
        "key": result.study_key,
        "facts": _facts(result, networks),
        "networks": networks,
        "box_from": shown.box_from,
        "min_lung": shown.min_lung,
        "scores": scores or None,
        "pictures": pictures_value(pictures, details_of(result)) if pictures else None,
        "deep": deep_value(deep) if deep else None,
    }


def study_page(value: dict[str, Any]) -> str:
    """A whole page of one study's panel, of nothing but itself; `value` is of `study_value`."""
    css = asset("panel.css")
    js = asset("panel.js") + asset("study.js")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    data = msgspec.json.encode(value).decode().replace("<", "\\u003c")
    return environment.from_string(asset("study.html.j2")).render(
        key=value["key"],
        notice=NOTICE,
        css=Markup(css),  # noqa: S704  our own files
        js=Markup(js),  # noqa: S704
        data=Markup(data),  # noqa: S704  no tag is left in it
        css_sha256=Markup(allowed(css)),  # noqa: S704
        js_sha256=Markup(allowed(js)),  # noqa: S704
    )


def _facts(result: StudyResult, networks: list[str]) -> list[dict[str, str]]:
    values = {name: getattr(result, name, "") for name in FACTS[:-1]} | {"n_slices_scored": len(result.slices)}
    facts = [_fact(*COLUMNS[name], said=str(value)) for name, value in values.items() if value != ""]
    scores = zip(networks, result.probabilities, strict=False)
    return facts + [_fact(name, "score", SCORE, said=f"{value:.4f}") for name, value in scores]


def _fact(label: str, kind: str, told: str, *, said: str) -> dict[str, str]:
    return {"label": label, "kind": kind, "told": told, "said": said}
