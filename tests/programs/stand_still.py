"""Moves for a while, then stands still where it says."""

import time

from pipeline.mpi import stall


def stands_here():
    time.sleep(100)


with stall.looked_at(0.8, rank=0):
    for _ in range(40):
        time.sleep(0.02)
        stall.moved()
    print("moved")
    stands_here()
