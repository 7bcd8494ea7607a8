"""Slices -> predictions: one engine a rank, the same numbers whoever computes them."""

from pipeline.study.engine.choice import check_int8, hint, resolve_engine
from pipeline.study.engine.engine import Engine

__all__ = ["Engine", "check_int8", "hint", "resolve_engine"]
