"""The shipped networks on held-out synthetic patients, as their card states: benchmarks/held_out.py [FOLDER] [OUT.json]."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.evaluation.held_out import HELD_OUT, held_out
from pipeline.study.shipped import shipped_weights


def figures_in(folder):
    """By cohort and task; everything made on the way stays in `folder`."""
    found = {}
    for name, plan in HELD_OUT.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        found[name] = held_out(folder / name, shipped_weights(), plan)
    return found


if __name__ == "__main__":
    figures = figures_in(Path(sys.argv[1] if len(sys.argv) > 1 else "build/held-out"))
    text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
    Path(sys.argv[2] if len(sys.argv) > 2 else "docs/held-out.json").write_text(text)
    print(text)
