"""The user's rules for series ([series] prefer and forbid) against what a series' headers say.

A description is free text and may name the patient: it is matched where its file is read, and only the answer is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.archive.found import Header
from pipeline.config import Rule, SeriesConfig

SAME_MM = 0.01


def asked(config: SeriesConfig) -> tuple[Rule, ...]:
    """The rules that must be answered while files are read."""
    return tuple(rule for rule in (*config.prefer, *config.forbid) if rule.field == "description")


def matches(rules: Sequence[Rule], description: str) -> int:
    """A bit for each rule that the description meets, the first rule's lowest."""
    return sum(1 << place for place, rule in enumerate(rules) if _text_meets(rule, description))


def meets(rule: Rule, header: Header, config: SeriesConfig) -> bool:
    """Whether the series of that slice meets the rule; a value that is missing meets none."""
    if rule.field == "description":
        return bool(header.matched >> asked(config).index(rule) & 1)
    if rule.field == "contrast":
        return header.contrast == rule.value
    if rule.field == "thickness_mm":
        return _number_meets(rule, header.facts.slice_thickness_mm)
    return _text_meets(rule, header.facts.kernel if rule.field == "kernel" else header.facts.manufacturer)


def preference(header: Header, config: SeriesConfig) -> int:
    """How well a series meets [series] prefer: an earlier rule outweighs all later ones."""
    return sum(meets(rule, header, config) << place for place, rule in enumerate(reversed(config.prefer)))


def is_forbidden(header: Header, config: SeriesConfig) -> bool:
    """Whether [series] forbid excludes it."""
    return any(meets(rule, header, config) for rule in config.forbid)


def _text_meets(rule: Rule, text: str) -> bool:
    wanted = str(rule.value).strip().casefold()
    found = text.strip().casefold()
    return bool(found) and (wanted == found if rule.operator == "is" else wanted in found)


def _number_meets(rule: Rule, number: float | None) -> bool:
    if number is None:
        return False
    wanted = float(rule.value)
    if rule.operator == "is":
        return abs(number - wanted) <= SAME_MM
    return number >= wanted - SAME_MM if rule.operator == "at_least" else number <= wanted + SAME_MM
