"""A whole run from invented records: journals of several ranks, run.toml and the tables. Numbers only, nothing of a patient."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from pipeline import open_run
from pipeline.config import Config, WindowConfig, results_digest
from pipeline.files import write_whole
from pipeline.records import Box, Detail, Event, Facts, Found, Line, ScoredSlice, SlicePrediction, StudyResult, Volume
from pipeline.run.gather import gather
from pipeline.run.journal import encode
from pipeline.run.run_toml import Described, Network
from pipeline.study.picture_pack import Album
from pipeline.study.pictures import deep_pictures, study_pictures
from pipeline.study.slices import prepare

LOST = (("EXCLUDED", "NO_CT", "index"), ("EXCLUDED", "NO_LUNG_FOUND", "lung"), ("FAILED", "DECODE_ERROR", "decode"))
FOUND = Found(0, (Event("file", "walk", "NOT_DICOM", 7), Event("file", "unpack", "ARCHIVE_CORRUPT", 2)))
NETWORK = Network("probability", "0" * 64, ("negative", "positive"), "positive", meaning="none: invented numbers")
MAKERS = (
    Facts("MAKER A", "One", "B60f", 1.5, 120.0, 1.5, 320.0, 214),
    Facts("MAKER B", "Two", "LUNG", 5.0, 110.0, 5.0, 290.0, 59),
)


def key_of(number, domain="S"):
    """A key that looks like a pseudonym, in no order."""
    return f"{domain}{number * 2654435761 % 2**32:010d}".ljust(26, "A")


def scored(number, draw, label=""):
    """One scored study of 6 to 12 slices, six details each."""
    middle = draw.uniform(0.05, 0.95)
    slices = []
    for place in range(int(draw.integers(6, 13))):
        rows = zip(draw.integers(0, 300, (6, 2)).tolist(), draw.random((6, 4)).round(4).tolist(), strict=True)
        details = tuple(
            Detail(Box(y, x, y + 90, x + 90), Box(y + 10, x + 20, y + 80, x + 90), score, 1 / 6, probability, lung)
            for (y, x), (score, _, probability, lung) in rows
        )
        probability = float(np.clip(middle + draw.normal(0, 0.1), 0, 1))
        slices.append(ScoredSlice(place * 14, place * 21.3, 21234.5, (SlicePrediction(probability, details),)))
    mean = sum(row.predictions[0].probability for row in slices) / len(slices)
    warnings = ("SLICE_GAP",) if number % 7 == 0 else ()
    status = "OK_WITH_WARNINGS" if warnings else "OK"
    patient = key_of(number // 2, "P")
    return StudyResult(
        key_of(number),
        patient,
        status,
        "",
        warnings,
        (mean,),
        key_of(number, "R"),
        214,
        label,
        MAKERS[number % 2],
        tuple(slices),
    )


def lost(number):
    """One study that was not scored."""
    status, reason, stage = LOST[number // 10 % len(LOST)]
    return StudyResult(
        key_of(number), key_of(number // 2, "P"), status, reason, n_files=3, events=(Event("study", stage, reason),)
    )


def picture(run: Path, key, input_="0" * 16):
    """Keep pictures of one scored study of a fabricated run: noise and two square lungs where its slices are; the volume."""
    slices = open_run(run).slices
    index = slices.loc[slices["study_key"] == key, "slice_index"].to_numpy(np.int32)
    index = np.append(index, index[-1] + 14)  # one more was read and left out
    draw = np.random.default_rng(0)
    hu = draw.normal(40, 20, (len(index), 128, 128)).astype(np.int16)
    masks = np.zeros(hu.shape, bool)
    masks[:-1, 30:90, 20:55] = masks[:-1, 30:90, 70:105] = True
    hu[masks] = draw.normal(-850, 60, int(masks.sum())).clip(-1024, 0)
    volume = Volume(hu, index * 1.5, index, (2.8, 2.8), n_series=int(index[-1]) + 1)
    without = [[[0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.3, 0.2]]] * (len(index) - 1)
    prepared = prepare(volume, masks, 1, Config())
    pictures = study_pictures(key, input_, volume, masks, prepared, WindowConfig(), without=without)
    album = Album(run / "images" / "0001-rank-00000.pack", Config().run)
    album.add(pictures)
    album.add_deep(deep_pictures(key, input_, volume))
    return volume


def fabricated_run(run: Path, n_studies=60, n_ranks=3, labels=("",)):
    """Every tenth study is lost; the counts by status."""
    draw = np.random.default_rng(0)
    few = [scored(number, draw) for number in range(min(n_studies, 200))]
    folder = run / "journal" / "0001"
    folder.mkdir(parents=True)
    files = [(folder / f"rank-{rank:05d}.jsonl").open("wb") for rank in range(n_ranks)]
    files[0].write(encode(Line(found=FOUND)))
    counts = Counter()
    for number in range(n_studies):
        result = lost(number) if number % 10 == 9 else few[number % len(few)]
        if result.slices:
            keys = {"study_key": key_of(number), "patient_key": key_of(number // 2, "P")}
            result = replace(result, **keys, label=labels[number % len(labels)])
        seconds = {"read": 0.1, "lung": 0.2, "prepare": 0.05, "infer": 1.0 + number % 5} if result.slices else {}
        files[number % n_ranks].write(encode(Line(result=result, input="0" * 16, seconds=seconds, ended=1e9 + number)))
        counts[result.status] += 1
    for file in files:
        file.close()
    _describe(run)
    gather(run, [NETWORK])
    return counts


def _describe(run):
    config = Config()
    described = Described("0", "f" * 16, results_digest(config), "0" * 64, [NETWORK], {"python": "3"}, config)
    write_whole(run / "run.toml", msgspec.toml.encode(described))
