"""Figures -> Markdown: one page, with what was asked for at its head, and where each figure comes from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.bench.engines import PAPER_S, least_seconds
from benchmarks.bench.reading import OURS, UNINDEXED
from benchmarks.bench.runs import PLAIN, RELEASE_BEFORE, ratios

Figures = dict[str, Any]
HEAD = """# One run of `make bench`

Written by `make bench`; nothing here is typed by hand. Synthetic patients and formula-made weights: the work is that of trained
networks, the scores mean nothing. Research use only, not a medical device.
"""


BUSY_LOAD = 0.25
"""Load a core from which on others are at work too."""
BUSY = (
    "- **The machine was busy** as this began: only what is in seconds of the processor can be believed, and their ratios best."
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is held against a bound: at least it, or at most."""

    what: str
    figure: float
    bound: float
    is_least: bool = True
    unit: str = ""

    @property
    def row(self) -> str:
        """A line of the table."""
        holds = self.figure >= self.bound if self.is_least else self.figure <= self.bound
        sign = "at least" if self.is_least else "at most"
        return (
            f"| {self.what} | {self.figure:.3g}{self.unit} | {sign} {self.bound:.3g}{self.unit} | {'yes' if holds else 'NO'} |"
        )


def page(figures: Figures) -> str:
    """The whole page; a part that was not measured is left out."""
    parts: list[tuple[str, Callable[[Any], Iterable[str]]]] = [
        ("engines", engines), ("reading", reading), ("runs", runs), ("growth", growth), ("syntaxes", syntaxes),
    ]  # fmt: skip
    lines = [HEAD, *machine(figures["machine"], figures["seconds"]), "", *goals(figures)]
    for name, told in parts:
        if name in figures:
            lines += ["", *told(figures[name])]
    return "\n".join(lines) + "\n"


def machine(of: Figures, seconds: dict[str, float]) -> list[str]:
    """What it was measured on."""
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    took = ", ".join(f"{part} {spent:.0f}" for part, spent in seconds.items())
    return [
        f"- **Machine**: {of['processor']}, {of['cores']} cores ({', '.join(of['instructions'])}), {of['memory_gib']} GiB; "
        f"GPU: {of['gpu'] or 'none'}. Load at the start {of['load_before']:.1f}.",
        f"- **Code**: commit {of['commit']}, {of['date']}; {versions}.",
        f"- **Seeds**: 0 for every archive and network. Seconds that the parts took: {took}.",
        *([BUSY] if of["load_before"] > of["cores"] * BUSY_LOAD else []),
    ]


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Markdown."""
    heads = list(heads)
    return ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def ms(seconds: float) -> str:
    """Whole milliseconds."""
    return f"{1000 * seconds:.0f}"


def times(one: Figures, other: Figures) -> str:
    """How many of the other's seconds of the processor it takes."""
    return f"{one['cpu_s'] / other['cpu_s']:.1f}"


def goals(figures: Figures) -> list[str]:
    """What was set as a goal, of the parts that were measured."""
    found = [
        *(goals_of_engines(figures["engines"]) if "engines" in figures else []),
        *(goals_of_reading(figures["reading"]) if "reading" in figures else []),
        *(goals_of_runs(figures["runs"]) if "runs" in figures else []),
    ]
    rows = [goal.row for goal in found]
    return ["## Goals", "", *table(("what", "figure", "goal", "holds"), []), *rows] if rows else []


def goals_of_engines(of: Figures) -> list[Goal]:
    """Shares of the peak."""
    named = [(name, of["engines"][name]) for name in ("openvino:fp32", "openvino:bf16") if name in of["engines"]]
    return [Goal(f"{name}, share of the measured peak", one["share_of_peak"], 0.85) for name, one in named]


def goals_of_reading(of: Figures) -> list[Goal]:
    """Reading beside the peers."""
    warm, cold, stages = of["warm"], of["cold"], of["stages_cpu_s"]
    ours = warm[OURS]["cpu_s"]
    without_lung = 1000 * (stages["read"] + stages["prepare"])
    monai = min(one["cpu_s"] for name, one in warm.items() if name.startswith("MONAI"))
    simpleitk = cold["SimpleITK"]["clock_s"]
    return [
        Goal(f"{of['slices']} slices, stored index to network input, processor", 1000 * ours, 100, is_least=False, unit=" ms"),
        Goal("of that reading, fill and resizing", without_lung, 30, is_least=False, unit=" ms"),
        Goal(
            "the whole over MONAI's reading of the volume (its faster reader), processor", ours / monai, 1 / 20, is_least=False
        ),
        Goal("the whole over SimpleITK's reader, processor", ours / warm["SimpleITK"]["cpu_s"], 1 / 3, is_least=False),
        Goal("the same, files not in memory, clock", cold[OURS]["clock_s"] / simpleitk, 1 / 3, is_least=False),
        Goal("the same, and without an index, clock", cold[UNINDEXED]["clock_s"] / simpleitk, 1 / 3, is_least=False),
    ]


def goals_of_runs(of: Figures) -> list[Goal]:
    """Whole runs on two ranks."""
    kinds, fastest = of["kinds"], of["fastest"]
    gains = {name: statistics.median(ratios(runs, kinds[RELEASE_BEFORE])) for name, runs in kinds.items()}
    plain = statistics.median(ratios(kinds[fastest], kinds[PLAIN]))
    found = [Goal(f"openvino:fp32 over {RELEASE_BEFORE}, studies/s, 2 ranks", gains["openvino:fp32"], 1.5)]
    if fastest != "openvino:fp32":
        found.append(Goal(f"{fastest} over {RELEASE_BEFORE}, studies/s, 2 ranks", gains[fastest], 2.4))
    found.append(Goal(f"{fastest} over the plain way, studies/s, 2 at a time", plain, 4.0))
    if "2" in of["ranks"]:
        found.append(Goal("two ranks over one, median of the pairs", statistics.median(of_pairs(of, "2")), 1.9))
    return found


def of_pairs(of: Figures, ranks: str) -> list[float]:
    """What each pair's run on so many ranks gained over one rank."""
    return ratios(of["ranks"][ranks], of["ranks"]["1"])


def engines(of: Figures) -> list[str]:
    """A row an engine."""
    peaks, n_slices = of["peak_flops"], of["slices"]
    rows = [
        (
            name,
            f"{one['cpu_s']:.2f}",
            f"{1000 * one['cpu_s'] / n_slices:.0f}",
            f"{least_seconds(name.partition(':')[2], n_slices * of['flop_a_slice'], peaks):.2f}",
            f"{one['share_of_peak']:.0%}",
        )
        for name, one in of["engines"].items()
    ]
    stages = ", ".join(f"{stage} {ms(spent)}" for stage, spent in of["stages"].items())
    told = ", ".join(f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in peaks.items())
    return [
        f"## The engines: {n_slices} slices of one study, one thread, seconds of the processor",
        "",
        f"Peak measured in turn with them: {told}. A slice is {of['flop_a_slice'] / 1e9:.1f} GFLOP of convolutions; `at the "
        f"peak` is what these alone would take. Before the network, ms for the whole study: {stages}. The paper states "
        f"{PAPER_S:.0f} s a patient on unnamed hardware.",
        "",
        *table(("engine", "infer, s", "a slice, ms", "at the peak, s", "share of the peak"), rows),
        *(f"\n{name}: refused ({why})." for name, why in of["refused"].items()),
        "",
        "![Seconds of the processor by engine](engines.png)",
    ]


def reading(of: Figures) -> list[str]:
    """A row a way."""
    rows = [
        (name, ms(warm["cpu_s"]), ms(warm["clock_s"]), ms(of["cold"][name]["clock_s"]), times(warm, of["warm"][OURS]))
        for name, warm in of["warm"].items()
    ]
    stages = ", ".join(f"{stage} {ms(spent)}" for stage, spent in of["stages_cpu_s"].items())
    headers, versions = of["headers"], ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    return [
        f"## A series of {of['slices']} slices, 512 x 512, ms",
        "",
        f"Ours goes on to the network's input (lungs found, filled, resized; ms of the processor: {stages}); the others read "
        f"the volume and no more. Cold: the files were dropped from memory before. {versions}.",
        "",
        *table(("way", "warm, processor", "warm, clock", "cold, clock", "times ours"), rows),
        "",
        f"Headers, files a second of the processor: ours {headers['ours']:,.0f}, pydicom with the same tags "
        f"{headers['pydicom']:,.0f}.",
        "",
        "![Milliseconds by way](reading.png)",
    ]


def runs(of: Figures) -> list[str]:
    """A row a kind of run, and the ranks."""
    kinds = of["kinds"]
    rows = [_run_row(name, "2", of_kind, kinds[RELEASE_BEFORE]) for name, of_kind in kinds.items()]
    told = [_run_row(of["fastest"], n, seen, of["ranks"]["1"]) for n, seen in of["ranks"].items()]
    heads = ("engine", "ranks", "studies/s", "gain of each round", "median", "processor, s a study", "gain of each round")
    return [
        f"## Whole runs of {of['studies']} studies, DICOM to tables",
        "",
        f"Studies of 40 slices 512 x 512, width {of['width']:g}, one thread a rank, taking turns. The gain is that "
        f"over {RELEASE_BEFORE} in the same round, which stands for the release before: its engine, with today's reading and "
        "lungs. The plain way is a process a study, two at a time: its own start is among its seconds, as it is in its use. "
        "The processor's seconds are the whole run's: start, index, tables and report too.",
        "",
        *table(heads, rows),
        "",
        "By ranks; the gain is over one rank of the same pair:",
        "",
        *table(heads, told),
        "",
        "![Studies a second](runs.png)",
    ]


def _run_row(name: str, ranks: str, seen: list[Figures], base: list[Figures]) -> tuple[str, ...]:
    rate, cpu_s, n_studies = (
        statistics.median(one[what] for one in seen) for what in ("studies_a_second", "cpu_s", "n_studies")
    )
    faster, cheaper = ratios(seen, base), ratios(base, seen, "cpu_s")
    each, spared = (", ".join(f"{gain:.2f}" for gain in gains) for gains in (faster, cheaper))
    return name, ranks, f"{rate:.3f}", each, f"{statistics.median(faster):.2f}", f"{cpu_s / n_studies:.2f}", spared


def growth(of: Figures) -> list[str]:
    """A row a size."""
    rows = [
        (n, f"{one['studies_a_second']:.2f}", f"{one['clock_s']:.1f}", f"{one['cpu_s'] / int(n):.2f}")
        for n, one in of["runs"].items()
    ]
    return [
        "## Growth",
        "",
        "Small synthetic studies (26 slices 128 x 128) and a slim network on two ranks, whole runs:",
        "",
        *table(("studies", "studies/s", "clock, s", "processor, s a study"), rows),
        *(
            ["", "Fabricated studies, the stages of a run but the network (benchmarks/scale.py):", "", of["scale"]]
            if "scale" in of
            else []
        ),
        *(["", "![Seconds and memory over size](scale.png)"] if "scale" in of else []),
    ]


def syntaxes(of: Figures) -> list[str]:
    """A row a syntax."""
    raw = of["read"]["uncompressed"]
    rows = [(name, ms(one["clock_s"]), ms(one["cpu_s"]), times(one, raw)) for name, one in of["read"].items()]
    return [
        "## Reading fifteen slices of 512 x 512 by transfer syntax, ms",
        "",
        *table(("transfer syntax", "clock", "processor, the decode child's among it", "times uncompressed"), rows),
        "",
        "![Milliseconds by transfer syntax](syntaxes.png)",
    ]
