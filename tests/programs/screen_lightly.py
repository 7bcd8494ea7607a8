"""`screen_lightly.py ARCHIVE WEIGHTS RUN MODULE...`: screen; print which of the modules were loaded as a study began."""

import json
import sys

import pipeline
from pipeline.config import Config, EngineConfig
from pipeline.study.screener import Screener

archive, weights, run, *heavy = sys.argv[1:]
told = []
line = Screener.line


def noted(self, dealt):
    """A study's line, as ever; what was loaded by then is kept."""
    told.append(sorted(set(heavy) & sys.modules.keys()))
    return line(self, dealt)


Screener.line = noted
pipeline.screen(archive, weights, run, config=Config(engine=EngineConfig(name="openvino")))
print(json.dumps([told[0], sorted(set(heavy) & sys.modules.keys())]))
