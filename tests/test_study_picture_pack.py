"""Pictures of a few studies are kept at screening: the right ones, within bounds, and without a trace in the results."""

import base64
import re
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest

import pipeline
from pipeline.config import Config, RunConfig, WindowConfig
from pipeline.errors import PipelineError
from pipeline.records import StudyResult, Volume
from pipeline.report import write_report
from pipeline.run.gather import payload_digest
from pipeline.run.resume import last_records
from pipeline.study.picture_pack import Album, find_pictures, keep_deep, read_deep, read_pictures
from pipeline.study.pictures import MAX_BYTES, coronal, deep_pictures, outlines, pack_slice, study_pictures
from pipeline.study.slices import prepare


def _result(score, key="K"):
    return StudyResult(key, "P", "OK", probabilities=(score,))


def _study(n_slices=15, matrix=512):
    """Noise with two square lungs: the hardest thing to compress."""
    draw = np.random.default_rng(0)
    hu = np.full((n_slices, matrix, matrix), 40, np.int16)
    edge = matrix // 8
    masks = np.zeros(hu.shape, bool)
    masks[:, edge:-edge, edge : 3 * edge] = masks[:, edge:-edge, 5 * edge : 7 * edge] = True
    hu[masks] = draw.integers(-1000, -400, int(masks.sum()))
    index = np.arange(n_slices, dtype=np.int32)
    volume = Volume(hu, np.arange(n_slices) * 20.0, index, (360 / matrix,) * 2, n_series=n_slices)
    return volume, masks, prepare(volume, masks, 1, Config())


@pytest.fixture(scope="module")
def without(plain, weights, tmp_path_factory):
    """The same run that keeps no pictures."""
    out, config = tmp_path_factory.mktemp("album") / "run", Config(run=RunConfig(images_top=0, images_flag_at=2.0))
    return pipeline.screen(plain.archive, weights, out, config=config, key_file=plain.run.parent / "key"), out


def test_the_highest_scores_of_the_whole_run_are_always_kept(tmp_path):
    draw = np.random.default_rng(1)
    for n_ranks in (1, 3, 7):
        albums = [Album(tmp_path / "x.pack", RunConfig(images_top=20, images_flag_at=2.0)) for _ in range(n_ranks)]
        scores = draw.random(2000)
        kept = {score for n, score in enumerate(scores) if albums[n % n_ranks].wants(_result(score))}
        assert set(np.sort(scores)[-20:]) <= kept
        assert len(kept) < n_ranks * 20 * (2 + np.log(2000 / n_ranks / 20))


def test_flagged_studies_are_kept_until_the_pack_is_full(tmp_path):
    album = Album(tmp_path / "x.pack", RunConfig(images_top=1, images_flag_at=0.5, images_mb=1.0))
    pictures = study_pictures("K", "input", *_study(), WindowConfig())
    wanted = []
    for score in (0.9, 0.6, 0.4, 0.7, 0.8, 0.95):
        wanted.append(album.wants(_result(score)))
        album.add(pictures)
    assert wanted == [True, True, False, False, False, True]


def test_the_pictures_of_a_study_are_bounded_whatever_it_shows(monkeypatch):
    def n_bytes(pictures):
        return sum(len(one.original) + len(one.seen or b"") for one in pictures.slices)

    study = _study(matrix=256)
    fine = n_bytes(study_pictures("K", "input", *study, WindowConfig()))
    assert fine <= MAX_BYTES
    monkeypatch.setattr("pipeline.study.pictures.MAX_BYTES", fine // 2)
    assert n_bytes(study_pictures("K", "input", *study, WindowConfig())) <= fine // 2
    monkeypatch.setattr("pipeline.study.pictures.MAX_BYTES", 1000)
    assert study_pictures("K", "input", *study, WindowConfig()) is None


def _unpacked(packed, size, step):
    """The inverse of pack_slice, pixel by pixel as a browser does it."""
    coded = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, *size).astype(int)
    folded = coded[0] + 256 * coded[1]
    grey = np.zeros((size[0] + 1, size[1] + 1), int)  # an empty row and column before the first
    for row, column in np.ndindex(*size):
        left, above, corner = grey[row + 1, column], grey[row, column + 1], grey[row, column]
        foretold = sorted((left, above, left + above - corner))[1]
        value = folded[row, column]
        grey[row + 1, column + 1] = foretold + (-(value + 1) // 2 if value % 2 else value // 2)
    return grey[1:, 1:] * step - 1024


@pytest.mark.parametrize("step", [1, 2, 8])
def test_every_grey_comes_back_from_a_packed_slice_to_half_a_step(step):
    hu = np.random.default_rng(0).integers(-1024, 3072, (23, 17)).astype(np.int16)
    hu[0], hu[:, 0] = 3071, -1024
    assert abs(_unpacked(pack_slice(hu, step), hu.shape, step) - hu).max() <= step / 2


def test_the_full_greys_of_a_study_are_bounded_whatever_it_shows(monkeypatch):
    volume, _, _ = _study(n_slices=3, matrix=64)
    whole = deep_pictures("K", "input", volume)
    assert (whole.step, whole.size) == (1, (64, 64))
    n_bytes = sum(map(len, whole.slices.values()))
    monkeypatch.setattr("pipeline.study.pictures.MAX_DEEP_BYTES", n_bytes)
    coarser = deep_pictures("K", "input", volume)
    assert coarser.step > 1
    assert sum(map(len, coarser.slices.values())) * 4 / 3 <= n_bytes
    monkeypatch.setattr("pipeline.study.pictures.MAX_DEEP_BYTES", 10)
    assert deep_pictures("K", "input", volume) is None


def test_full_greys_are_those_of_the_highest_scores_only_and_of_the_present_input(tmp_path):
    album = Album(tmp_path / "images" / "x.pack", RunConfig(images_top=2, images_flag_at=2.0))
    volume, _, _ = _study(n_slices=2, matrix=32)
    for key, score in (("a", 0.2), ("b", 0.9), ("c", 0.5), ("d", 0.5)):
        if album.wants(_result(score, key)) and album.is_top(key):
            album.add_deep(deep_pictures(key, "1", volume))
    assert sorted(path.stem for path in (tmp_path / "images").iterdir()) == ["b", "c"]
    assert set(read_deep(tmp_path, "b", "1").slices) == {0, 1}
    assert read_deep(tmp_path, "b", "2") is None
    assert read_deep(tmp_path, "a", "1") is None
    keep_deep(tmp_path, {"c"})
    assert [path.stem for path in (tmp_path / "images").iterdir()] == ["c"]


def test_the_view_from_the_front_has_the_head_on_top_and_the_slices_where_they_lie(monkeypatch):
    monkeypatch.setattr("pipeline.study.pictures._jpeg", lambda picture, *_: picture)
    volume, masks, _ = _study(n_slices=4, matrix=64)
    volume.hu[-1] = 3071
    front = coronal(volume, masks, WindowConfig())
    assert (front.z_top, front.z_bottom, front.width_mm) == (60.0, 0.0, pytest.approx(360))
    assert front.image[0].min() > 200 > front.image[-1].min()
    assert front.image.shape[0] / front.image.shape[1] == pytest.approx(60 / 360, abs=0.01)
    assert coronal(replace(volume, z_mm=np.zeros(4)), masks, WindowConfig()) is None


def test_of_exported_pictures_no_side_and_no_size_is_claimed():
    volume, masks, prepared = _study(n_slices=3, matrix=256)
    known = study_pictures("K", "input", volume, masks, prepared, WindowConfig())
    assert known.spacing_mm == volume.spacing_mm
    unknown = study_pictures("K", "input", replace(volume, masks=("", "", "")), masks, prepared, WindowConfig())
    assert unknown.spacing_mm is unknown.coronal is None


def test_torn_lines_and_pictures_of_another_input_are_passed_over(tmp_path):
    album = Album(tmp_path / "images" / "0001-rank-00000.pack", RunConfig())
    small = _study(5, 64 * 4)
    for key, input_ in (("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")):
        album.add(study_pictures(key, input_, *small, WindowConfig()))
    path = tmp_path / "images" / "0001-rank-00000.pack"
    path.write_bytes(path.read_bytes()[:-9])
    found = find_pictures(tmp_path, {"a": "1", "b": "2", "c": "1"})
    assert list(found) == ["a"]
    assert read_pictures(found["a"]).input == "1"


def test_an_outline_goes_round_the_mask():
    mask = np.zeros((40, 40), bool)
    mask[10:21, 5:31] = True
    assert sorted(outlines(mask)[0].split()) == ["30,10", "30,20", "5,10", "5,20"]


def test_keeping_pictures_changes_no_result(plain, without):
    assert without[0].digest == plain.digest
    assert list((plain.run / "images").glob("*.pack"))
    assert not (without[1] / "images").exists()


def test_a_run_killed_between_two_studies_has_the_pictures_of_its_top_after_a_resume(plain, weights, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(plain.run, out)
    (journal,) = (out / "journal").glob("*/rank-*.jsonl")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))  # two of four studies are finished
    (pack,) = (out / "images").glob("*.pack")
    lines = pack.read_bytes().splitlines(keepends=True)
    pack.write_bytes(b"".join(lines[:-1]) + lines[-1][:1000])  # the last one's pictures were being written
    config = Config(run=RunConfig(images_top=3, images_flag_at=2.0))
    done = pipeline.screen(plain.archive, weights, out, config=config, key_file=plain.run.parent / "key")
    assert done.digest == plain.digest
    top = pipeline.open_run(out).studies.sort_values("probability", ascending=False)["study_key"].tolist()[:3]
    assert set(top) <= set(find_pictures(out, {key: place.input for key, place in last_records(out).items()}))
    assert len(list((out / "images").glob("*.pack"))) == 2
    assert {path.stem for path in (out / "images").glob("*.deep")} == set(top)


def test_whatever_goes_wrong_with_drawing_or_the_report_the_tables_are_complete(plain, weights, tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("CANARY")

    monkeypatch.setattr("pipeline.study.screener.study_pictures", broken)
    monkeypatch.setattr("pipeline.report.write_report", broken)
    with pytest.raises(PipelineError, match=r"the report could not be made \(ValueError\)"):
        pipeline.screen(plain.archive, weights, tmp_path / "run", key_file=plain.run.parent / "key")
    assert payload_digest(tmp_path / "run") == plain.digest
    assert not (tmp_path / "run" / "report").exists()
    assert "no pictures" in caplog.text
    assert "CANARY" not in caplog.text


def test_the_report_shows_the_top_studies_with_their_details(plain):
    run = pipeline.open_run(plain.run)
    write_report(run.folder)
    top = run.studies.sort_values("probability", ascending=False)["study_key"].tolist()[:3]
    inputs = {key: place.input for key, place in last_records(run.folder).items()}
    assert set(top) <= set(find_pictures(run.folder, inputs))
    for key in top:
        said = (run.folder / "report" / "data" / f"images-{key}.js").read_text()
        n_scored = int(run.studies.set_index("study_key").loc[key, "n_slices_scored"])
        assert said.count('"attention"') == 6 * n_scored
        assert said.count('"original":"') == 15


def test_nothing_that_identifies_is_in_a_picture_or_on_the_page(plain):
    folder = plain.run
    texts = [path.read_bytes() for place in ("report", "images") for path in (folder / place).rglob("*") if path.is_file()]
    assert len(texts) > 5
    held = [base64.b64decode(code) for text in texts for code in re.findall(rb"[A-Za-z0-9+/]{400,}={0,2}", text)]
    assert len(held) > 100
    for secret in (b"CANARY", b"19010203", str(plain.archive).encode()):
        assert not [1 for said in [*texts, *held] if secret in said]
