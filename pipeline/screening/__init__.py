"""The spine: index -> deal -> (a study through its stages) -> record -> gather, over any number of ranks."""

from pipeline.screening.ending import gather_run
from pipeline.screening.indexing import Indexed, index_only
from pipeline.screening.kept import Kept, keep
from pipeline.screening.spine import run, screen

__all__ = ["Indexed", "Kept", "gather_run", "index_only", "keep", "run", "screen"]
