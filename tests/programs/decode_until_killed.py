"""Starts a decoder's child, prints its process ID, and waits to be killed."""

import time

from pipeline.archive.decode import Decoder

decoder = Decoder()
decoder.child.start()
print(decoder.child.pid, flush=True)
time.sleep(600)
