"""Prints how often memory was asked of the system while eight pictures of a megabyte came and went forty times."""

import resource

import numpy as np

from pipeline.study.freed import keep_freed_memory

assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    pictures = [np.ones(1 << 20, np.uint8) for _ in range(8)]
    del pictures
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
