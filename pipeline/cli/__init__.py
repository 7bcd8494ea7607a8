"""The command `drenet`: sub-commands, log handlers, exit codes; the only place that prints.

Heavy libraries are imported inside the command that needs them, so that `drenet --help` answers on any login node.
"""

from pipeline.cli.main import main

__all__ = ["main"]
