"""The report: every study and file is in its flow, its data files hold the tables, and it asks nothing of the network."""

import json
import math
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from msgspec import structs

from pipeline import open_run
from pipeline.errors import ConfigurationError
from pipeline.records import Line
from pipeline.report import Options, write_report
from pipeline.report.flow import read_flow
from pipeline.report.timing import MERGED, PAUSE_S, read_timing, slowest_stages
from pipeline.run.journal import encode
from pipeline.run.resume import compact, last_records
from tests.fabricate_run import NETWORK, fabricated_run, key_of, lost

N_STUDIES = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fabricated_run(folder, N_STUDIES, labels=("covid", "healthy"))
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "roc_curve.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "evaluation" / "metrics.csv").write_text("metric,value\nAUC,<0.5>\n")
    write_report(folder)
    return folder


def data(run, name):
    """The value that a data file puts."""
    said = (run / "report" / "data" / f"{name}.js").read_text()
    return json.loads(re.fullmatch(rf'drenet\.put\("{name}",(.*)\);\n', said)[1])


def columns_of(run):
    """Every column of the page's table, from its own file."""
    columns = {}
    for place, column in enumerate(data(run, "studies")["columns"]):
        file = data(run, f"column-{place}")
        codes = file.get("codes")
        columns[column["name"]] = (
            file["values"] if codes is None else [None if code is None else file["choices"][code] for code in codes]
        )
    return columns


def page(run):
    return (run / "report" / "index.html").read_text()


def test_the_flow_accounts_for_every_study_and_file(run):
    flow = read_flow(open_run(run))
    for steps in (flow.studies, flow.files):
        for before, after in pairwise(steps):
            assert before.count - before.lost == after.count
    assert [step.count for step in flow.studies] == [60, 58, 54]
    assert [(loss.reason, loss.count) for loss in flow.studies[1].losses] == [("NO_LUNG_FOUND", 2), ("DECODE_ERROR", 2)]
    assert [(loss.reason, loss.count) for loss in flow.files[0].losses] == [("NOT_DICOM", 7), ("ARCHIVE_CORRUPT", 2)]
    assert flow.files[1].count == 54 * 214 + 6 * 3


def test_the_data_files_hold_every_study_and_every_scored_slice(run):
    tables, studies = open_run(run), data(run, "studies")
    columns = columns_of(run)
    ordered = tables.studies.sort_values(studies["networks"][0], ascending=False, kind="stable")
    assert columns["study_key"] == ordered["study_key"].tolist()
    assert columns["probability"] == [None if math.isnan(p) else round(p, 4) for p in ordered["probability"]]
    assert columns["n_slices_scored"] == ordered["n_slices_scored"].tolist()
    rows = data(run, "rows-0")
    assert [list(column) for column in zip(*rows, strict=True)] == list(columns.values())
    slices = data(run, "slices-0")
    assert {key: len(rows) for key, rows in slices.items()} == tables.slices["study_key"].value_counts().to_dict()


def test_a_table_too_long_for_a_browser_holds_the_highest_scores_and_says_where_the_rest_is(run, tmp_path):
    short = tmp_path / "run"
    shutil.copytree(run, short)
    write_report(short, Options(rows=20))
    tables = open_run(short)
    slowest = set(slowest_stages(read_timing(short, last_records(short)))["worst_study"])
    columns = columns_of(short)
    others = tables.studies[~tables.studies["study_key"].isin(slowest)]
    highest = others.sort_values("probability", ascending=False)["study_key"].head(20 - len(slowest))
    assert set(columns["study_key"]) == {*highest, *slowest}
    assert set(data(short, "slices-0")) == set(columns["study_key"])
    assert '20 studies with the highest scores; all 60 are in <a href="../studies.csv">' in page(short)
    assert "studies with the highest scores" not in page(run)


def test_studies_whose_lung_masks_are_implausible_come_first(run, tmp_path):
    doubtful = tmp_path / "run"
    shutil.copytree(run, doubtful)
    table = doubtful / "studies.csv"
    text = (
        table.read_text().replace("NO_LUNG_FOUND", "LUNG_IMPLAUSIBLE", 1).replace("SLICE_GAP", "LUNG_IMPLAUSIBLE;SLICE_GAP", 1)
    )
    table.write_text(text)
    write_report(doubtful)
    columns, told = columns_of(doubtful), data(doubtful, "studies")
    assert told["doubted"] == 2
    assert columns["warnings"][0] == "LUNG_IMPLAUSIBLE;SLICE_GAP"
    assert (columns["reason"][1], columns["probability"][1]) == ("LUNG_IMPLAUSIBLE", None)
    scores = [score for score in columns["probability"][2:] if score is not None]
    assert scores == sorted(scores, reverse=True)
    assert "2 studies whose lung masks are implausible come first" in page(doubtful)
    assert data(run, "studies")["doubted"] == 0
    assert "implausible come" not in page(run)
    write_report(doubtful, Options(rows=10))
    assert columns_of(doubtful)["reason"][1] == "LUNG_IMPLAUSIBLE"


def test_the_page_asks_nothing_of_any_network(run):
    text = page(run)
    for source in re.findall(r"""(?:src|href)=["']([^"']*)""", text):
        assert source.startswith(("data:", "data/", "#", "card.md", "../")), source
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert not re.findall(r"\bfetch\(|XMLHttpRequest|@import|url\(", text)


def test_every_picture_has_its_alternative_text_and_every_field_its_label(run):
    text = re.sub(r"<script>.*?</script>", "", page(run), flags=re.DOTALL)
    assert len(re.findall(r"<img ", text)) == len(re.findall(r'<img [^>]*alt="[^"]{20,}"', text)) == 4
    for field in re.findall(r"<(?:input|select)[^>]*>", text):
        assert re.search(rf"<label>[^<]*{re.escape(field)}", text), field
    assert 'lang="en"' in text


def test_the_banner_says_research_only_and_what_the_weights_mean(run):
    assert "Research use only. Not a medical device." in page(run)
    assert "none: invented numbers" in page(run)


def test_the_evaluation_is_shown_as_it_stands_and_harmless(run):
    text = page(run)
    assert "roc curve" in text
    assert "<td>AUC</td><td>&lt;0.5&gt;</td>" in text


def test_a_trained_network_states_its_threshold_and_needs_no_meaning(tmp_path):
    import tomllib

    import tomli_w

    from pipeline.run.gather import gather

    fabricated_run(tmp_path, 20)
    described = tomllib.loads((tmp_path / "run.toml").read_text())
    for optional in ("task", "meaning"):
        described["networks"][0].pop(optional, None)
    described["networks"][0]["threshold"] = 0.6
    (tmp_path / "run.toml").write_text(tomli_w.dumps(described))
    gather(tmp_path, [structs.replace(NETWORK, threshold=0.6)])
    text = write_report(tmp_path).read_text()
    assert "above_threshold is 1 from 0.600 on" in (tmp_path / "report" / "card.md").read_text()
    n_above = int((open_run(tmp_path).studies["probability"] >= 0.6).sum())
    assert re.search(rf"probability at or above its threshold, 0.600</dt><dd>{n_above} ", text)
    columns = columns_of(tmp_path)
    assert sum(one or 0 for one in columns["above_threshold"]) == n_above > 0


def test_the_card_says_that_no_threshold_is_applied_only_where_none_is(run):
    assert "No threshold is applied." in (run / "report" / "card.md").read_text()


def test_without_an_evaluation_the_page_has_no_such_part(tmp_path):
    fabricated_run(tmp_path, 20)
    assert "Evaluation" not in write_report(tmp_path).read_text()


def test_a_study_without_any_scored_one_still_makes_a_page(tmp_path):
    fabricated_run(tmp_path, 20)
    for path in (tmp_path / "journal").rglob("*.jsonl"):
        path.write_bytes(encode(Line(result=lost(9))))
    from pipeline.run.gather import gather

    gather(tmp_path, [NETWORK])
    assert "NO_CT" in write_report(tmp_path).read_text()


def test_a_report_made_again_replaces_the_first_whole(run):
    (run / "report" / "stale.txt").write_text("old")
    before = page(run)
    write_report(run, Options(box_from=0.8))
    assert page(run) == before
    assert {path.name for path in (run / "report").iterdir()} == {"index.html", "card.md", "data"}
    assert not list(run.glob(".report*"))


def test_the_threshold_of_the_boxes_reaches_the_page(run):
    assert data(run, "studies")["box_from"] == 0.8
    write_report(run, Options(box_from=0.65))
    assert data(run, "studies")["box_from"] == 0.65


def test_the_card_answers_what_a_program_can_and_leaves_the_rest_blank(run):
    text = (run / "report" / "card.md").read_text()
    assert "{" not in text
    assert "60 discovered, 58 with a series to screen, 54 scored" in text
    assert "MAKER A (30), MAKER B (24)" in text
    rows = {tuple(line.split(" | ")[:1]): line for line in text.splitlines() if line.startswith("| ")}
    assert text.count("to be filled in by a person") == page(run).count("to be filled in by a person") > 15
    assert "to be filled in" in rows["| 17",]  # ethical approval
    for name in ("TRIPOD+AI", "CLAIM"):
        assert f"## {name}" in text


def test_a_folder_without_tables_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ConfigurationError, match="drenet gather"):
        write_report(tmp_path)


def test_working_time_leaves_out_the_pauses_between_attempts(tmp_path):
    fabricated_run(tmp_path, 20)
    late = encode(Line(result=lost(99), seconds={"read": 2.0}, ended=1e9 + 86_400))
    (tmp_path / "journal" / "0002").mkdir()
    (tmp_path / "journal" / "0002" / "rank-00000.jsonl").write_bytes(late)
    timing = read_timing(tmp_path, last_records(tmp_path))
    assert timing["study_key"].iloc[-1] == key_of(99)
    assert timing["at_s"].iloc[-1] == 18 + PAUSE_S  # study 19 was lost before any stage
    assert timing["rank"].iloc[-1] == "0002/rank-00000"
    compact(tmp_path)
    assert set(read_timing(tmp_path, last_records(tmp_path))["rank"]) == {MERGED}


def test_stages_are_ranked_by_what_they_cost(run):
    stages = slowest_stages(read_timing(run, last_records(run)))
    assert stages["stage"].tolist() == ["infer", "lung", "read", "prepare"]
    assert stages["share"].sum() == pytest.approx(1)
    assert stages["worst_s"].iloc[0] == 5.0 == 1.0 + 4


def test_exclusions_that_name_no_study_have_their_report(tmp_path):
    fabricated_run(tmp_path, n_studies=4)  # all of them scored: only files were left out
    assert open_run(tmp_path).exclusions["study_key"].isna().all()
    assert "ARCHIVE_CORRUPT" in write_report(tmp_path).read_text()


def test_a_report_that_fails_half_way_leaves_nothing_behind_and_the_old_one_in_place(tmp_path, monkeypatch):
    fabricated_run(tmp_path, n_studies=4)
    before = write_report(tmp_path).read_bytes()
    monkeypatch.setattr("pipeline.report.page.write_slices", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".report*"))
    assert (tmp_path / "report" / "index.html").read_bytes() == before


def test_a_run_without_a_study_has_its_report(tmp_path):
    fabricated_run(tmp_path, n_studies=0)
    assert [step.count for step in read_flow(open_run(tmp_path)).studies] == [0, 0, 0]
    assert "NOT_DICOM" in write_report(tmp_path).read_text()


def test_no_legend_covers_a_curve(run, monkeypatch):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from pipeline.evaluation import plots
    from pipeline.evaluation.intervals import Scored
    from pipeline.report import figures

    drawn = []
    monkeypatch.setattr(figures, "_source", lambda figure, _: drawn.append(figure) or "")
    monkeypatch.setattr(plots, "_bytes", lambda figure, _: drawn.append(figure) or b"")
    tables = open_run(run)
    figures.charts(tables.studies, data(run, "studies")["networks"], read_timing(run, last_records(run)))
    scored = Scored(np.array([0, 1] * 20), np.linspace(0, 1, 40), np.arange(40))
    plots.draw(scored, scored, 0.5)
    legends = 0
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            if axes.get_legend():
                legends += 1
                assert not axes.get_legend().get_window_extent().overlaps(axes.bbox)
    assert legends >= 5
