"""`scan_as_nobody.py ARCHIVE`: what is said of its folders closed/ and ct/ by a process that may not read everything."""

import os
import sys
from pathlib import Path

from pipeline.archive import list_folder, scan_file

NOBODY = 65534
root = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
print(list_folder(root, "closed")[2])
print(*[scan_file(root, file).records[0].reason for file in list_folder(root, "ct")[1]], sep=",")
