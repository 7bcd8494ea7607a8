"""`scan_folder.py FOLDER`: the reasons of every file's records, a file a line, then the most memory that this took, in MB."""

import sys
from pathlib import Path

from pipeline.archive import list_folder, scan_file

folder = Path(sys.argv[1])
for file in list_folder(folder, "")[1]:
    print(*[record.reason or "read" for record in scan_file(folder, file).records], sep=",")
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
