"""What Prometheus reads: the queue, outcomes, seconds a stage, requests; no label is of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

STATES = ("receiving", "queued", "running", "done", "failed", "cancelled")


@dataclass(slots=True)
class Metrics:
    """Counters since the server's start."""

    outcomes: Counter[str] = field(default_factory=Counter)
    responses: Counter[str] = field(default_factory=Counter)
    stage_s: dict[str, float] = field(default_factory=dict)
    stage_n: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    worker_deaths: int = 0

    def answered(self, outcome: str, seconds: dict[str, float]) -> None:
        """One upload is answered."""
        self.outcomes[outcome] += 1
        for stage, spent in seconds.items():
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + spent
            self.stage_n[stage] += 1

    def text(self, states: Counter[str]) -> str:
        """The exposition format, version 0.0.4."""
        return "".join(
            (
                _family("drenet_studies", "gauge", "uploads by state", "state", {name: states[name] for name in STATES}),
                _family("drenet_outcomes_total", "counter", "uploads answered", "outcome", self.outcomes),
                _family("drenet_responses_total", "counter", "HTTP responses by status", "status", self.responses),
                _family("drenet_stage_seconds_sum", "counter", "seconds spent a stage", "stage", self.stage_s),
                _family("drenet_stage_seconds_count", "counter", "uploads that passed a stage", "stage", self.stage_n),
                _single("drenet_received_bytes_total", "bytes of uploads", self.bytes_in),
                _single("drenet_worker_deaths_total", "worker processes that died at work", self.worker_deaths),
            )
        )


def _family(name: str, kind: str, told: str, label: str, values: Mapping[str, float]) -> str:
    rows = "".join(f'{name}{{{label}="{key}"}} {value:g}\n' for key, value in sorted(values.items()))
    return f"# HELP {name} {told}\n# TYPE {name} {kind}\n{rows}"


def _single(name: str, told: str, value: int) -> str:
    return f"# HELP {name} {told}\n# TYPE {name} counter\n{name} {value}\n"
