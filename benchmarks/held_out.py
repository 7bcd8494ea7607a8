"""The shipped networks on held-out synthetic patients, as their card states: benchmarks/held_out.py [FOLDER] [OUT.json]."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.evaluation.held_out import held_out
from pipeline.study.drenet.shipped import shipped_weights

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/held-out")
    folder.mkdir(parents=True, exist_ok=True)
    figures = held_out(folder, shipped_weights())
    text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
    Path(sys.argv[2] if len(sys.argv) > 2 else "docs/held-out.json").write_text(text)
    print(text)
