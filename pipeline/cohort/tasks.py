"""What a network may be asked to tell apart: the tasks, and the classes of each."""

from __future__ import annotations

from typing import Literal

Task = Literal["covid-vs-bacterial", "covid-vs-healthy", "three-class"]
CLASSES: dict[str, tuple[str, ...]] = {
    "covid-vs-bacterial": ("bacterial", "covid"),
    "covid-vs-healthy": ("healthy", "covid"),
    "three-class": ("healthy", "bacterial", "covid"),
}
POSITIVE = "covid"
