"""Two ranks compare their clocks; rank 1's is 100 s ahead. Root prints the offsets as JSON."""

import json
import time

from pipeline.mpi.launch import connect
from pipeline.submission.doctor import clock_offsets

world = connect()
real = time.time
if world.rank == 1:
    time.time = lambda: real() + 100
offsets = clock_offsets(world)
if world.rank == 0:
    print(json.dumps(offsets))
