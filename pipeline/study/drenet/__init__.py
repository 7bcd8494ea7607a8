"""DRE-Net: the networks and their checkpoints."""

from pipeline.study.drenet.baselines import Baseline
from pipeline.study.drenet.checkpoint import load_checkpoint, load_checkpoint_bytes, load_network, load_start, save_checkpoint
from pipeline.study.drenet.formula import formula_network
from pipeline.study.drenet.network import DreNet, DreNetOutput

__all__ = [
    "Baseline",
    "DreNet",
    "DreNetOutput",
    "formula_network",
    "load_checkpoint",
    "load_checkpoint_bytes",
    "load_network",
    "load_start",
    "save_checkpoint",
]
