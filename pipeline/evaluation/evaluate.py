"""`drenet evaluate`: a trained network on one part of its split, or a screened run's networks on whoever has a label.

Either way RUN/evaluation/ gets the same tables, curves and differences (write.py). What is measured on synthetic patients
proves the machinery and says nothing about clinical accuracy.
"""

from __future__ import annotations

from pipeline.cohort.paths import RECIPE
from pipeline.errors import ConfigurationError
from pipeline.evaluation.metrics import Figure
from pipeline.evaluation.screened_run import measure_screened
from pipeline.evaluation.trained_run import Asked, measure_trained
from pipeline.evaluation.write import write_evaluation

SCREENED = "run.toml"


def evaluate(asked: Asked) -> dict[str, list[Figure]]:
    """Write RUN/evaluation/NAME/ of the part, or of every network screened with; their figures. Raises ConfigurationError."""
    found = [measure_trained(asked)] if is_trained(asked) else measure_screened(asked.run, asked.labels, asked.key_file)
    return {measured.name: write_evaluation(asked.run, measured, asked.against) for measured in found}


def is_trained(asked: Asked) -> bool:
    """Whether the run is a training run, else a screened one: each has a file that tells. Raises ConfigurationError."""
    if (asked.run / RECIPE).exists():
        return True
    if not (asked.run / SCREENED).exists():
        raise ConfigurationError(
            f"{asked.run} is neither a training run's folder (it would hold {RECIPE}) nor a screened one's ({SCREENED}): "
            "name the --out of `drenet train` or `drenet screen`"
        )
    if asked.part or asked.archive or asked.cache:
        raise ConfigurationError(f"{asked.run} is a screened run: --part, --archive and --cache are for training runs")
    return False
