"""[series] prefer and forbid: read strictly, obeyed before all other criteria, the description matched and never kept."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import Config, Rule, SeriesConfig, SliceConfig, read_config, results_digest
from pipeline.errors import ConfigurationError
from pipeline.run.explain import explain
from tests.fabricate import images, indexed, write

DOCS = Path(__file__).parents[1] / "docs"
EVERY = SliceConfig(count=1000)


def config_of(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    return read_config(tmp_path / "config.toml")


def rule(field, operator, value):
    return f'[[series.forbid]]\nfield = "{field}"\noperator = "{operator}"\nvalue = {value}\n'


def test_rules_are_read_from_the_configuration(tmp_path):
    text = '[series]\nprefer = [{field = "kernel", operator = "contains", value = "b70"}]\n' + rule("contrast", "is", "true")
    config = config_of(tmp_path, text)
    assert config.series.prefer == (Rule(field="kernel", operator="contains", value="b70"),)
    assert config.series.forbid == (Rule(field="contrast", operator="is", value=True),)
    assert results_digest(config) != results_digest(Config())


def test_the_example_in_the_docs_is_a_configuration(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "series.md").read_text(), re.DOTALL)
    series = config_of(tmp_path, text).series
    assert [rule.field for rule in (*series.prefer, *series.forbid)] == ["description", "thickness_mm", "contrast"]


STRICT = {
    "an unknown field": (rule("name", "is", '"x"'), "Invalid enum value 'name'"),
    "an unknown operator": (rule("kernel", "like", '"x"'), "Invalid enum value 'like'"),
    "an operator for numbers": (rule("kernel", "at_most", '"x"'), "about kernel knows the operators is, contains"),
    "text for a number": (rule("thickness_mm", "is", '"thin"'), "about thickness_mm is a number"),
    "true for a number": (rule("thickness_mm", "is", "true"), "about thickness_mm is a number"),
    "no number at all": (rule("thickness_mm", "at_least", "nan"), "about thickness_mm is a number"),
    "a number for text": (rule("kernel", "is", "70"), "about kernel is text"),
    "a number for truth": (rule("contrast", "is", "1"), "about contrast is true or false"),
    "an empty text": (rule("description", "contains", '" "'), "needs a text"),
    "another key": (rule("kernel", "is", '"x"') + "weight = 3\n", "known here: field, operator, value"),
    "too many": ("".join(rule("kernel", "is", f'"{n}"') for n in range(9)), "at most 8 rules"),
}


@pytest.mark.parametrize(("text", "said"), STRICT.values(), ids=STRICT)
def test_a_rule_that_makes_no_sense_is_refused(text, said, tmp_path):
    with pytest.raises(ConfigurationError, match=said):
        config_of(tmp_path, text)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """One study of three series: thin and sharp (what is chosen without rules), thick and soft, sharp with contrast."""
    folder = tmp_path_factory.mktemp("rules") / "a"
    series = {
        "a": {"SeriesDescription": "Thorax CANARYTEXT Lunge", "SliceThickness": 2, "ConvolutionKernel": "B70f"},
        "b": {"SeriesDescription": "Weichteil", "SliceThickness": 5, "ConvolutionKernel": "B30f"},
        "c": {"SeriesDescription": "Lunge KM", "SliceThickness": 2.5, "ConvolutionKernel": "B70f", "ContrastBolusAgent": "x"},
    }
    for name, values in series.items():
        data_sets = images(kind=name)
        for data in data_sets:
            for keyword, value in values.items():
                setattr(data, keyword, value)
        write(folder / name, data_sets)
    return folder


def chosen(archive, **rules):
    """(the folders of the candidates, best first; the events of the study by code; the study)."""
    made = {what: tuple(Rule(field=f, operator=o, value=v) for f, o, v in wishes) for what, wishes in rules.items()}
    _, (study,) = indexed(archive, Config(series=SeriesConfig(**made), slices=EVERY))
    order = "".join(series.slices[0].path.partition("/")[0] for series in study.candidates)
    events = Counter(code for event in study.events for code in [event.code] * event.count)
    return order, events, study


def test_without_rules_the_order_is_what_it_was(archive):
    assert chosen(archive)[0] == "acb"


PREFER = {
    "a kernel": ([("kernel", "contains", "b30")], "bac"),
    "a description": ([("description", "contains", "KM")], "cab"),
    "a description as a whole": ([("description", "is", "weichteil")], "bac"),
    "part of a description where the whole is asked": ([("description", "is", "lunge")], "acb"),
    "a manufacturer that all have": ([("manufacturer", "is", "siemens")], "acb"),
    "thickness from": ([("thickness_mm", "at_least", 3)], "bac"),
    "thickness to": ([("thickness_mm", "at_most", 2.0)], "acb"),
    "contrast": ([("contrast", "is", True)], "cab"),
    "the first of two": ([("kernel", "is", "B30f"), ("contrast", "is", True)], "bca"),
    "one that meets two, after one that meets the first": (
        [("thickness_mm", "is", 5), ("contrast", "is", True), ("kernel", "is", "B70f")],
        "bca",
    ),
}


@pytest.mark.parametrize(("wishes", "order"), PREFER.values(), ids=PREFER)
def test_a_preferred_series_comes_before_all_others(wishes, order, archive):
    found, events, _ = chosen(archive, prefer=wishes)
    assert found == order
    assert ("LOST_PREFERENCE" in events) == (order != "acb" or wishes[0][0] == "thickness_mm")


FORBID = {
    "a description": ([("description", "contains", "lunge")], "b"),
    "a kernel": ([("kernel", "contains", "B70")], "b"),
    "contrast": ([("contrast", "is", True)], "ab"),
    "no contrast": ([("contrast", "is", False)], "c"),
    "thickness": ([("thickness_mm", "at_least", 2.5)], "a"),
    "all": ([("manufacturer", "contains", "Siem")], ""),
}


@pytest.mark.parametrize(("wishes", "order"), FORBID.values(), ids=FORBID)
def test_a_forbidden_series_is_never_chosen_and_says_so(wishes, order, archive):
    found, events, study = chosen(archive, forbid=wishes)
    assert found == order
    assert events["SERIES_FORBIDDEN"] == 24 * (3 - len(order))
    assert study.reason == ("" if order else "SERIES_FORBIDDEN")


def test_a_description_is_matched_and_never_kept(archive):
    chosen(archive, prefer=[("description", "contains", "canarytext")])
    kept = b"".join(path.read_bytes() for path in archive.with_name("a-private").iterdir())
    assert b"CANARYTEXT" not in kept  # the rule itself says it in small letters
    assert b"Weichteil" not in kept


def test_other_rules_about_descriptions_read_the_files_again(archive):
    assert chosen(archive, forbid=[("description", "contains", "KM")])[0] == "ab"
    assert chosen(archive, forbid=[("description", "contains", "Thorax")])[0] == "cb"
    assert chosen(archive)[0] == "acb"


def test_explain_says_of_each_candidate_its_marks_and_why_it_lost(archive, tmp_path):
    _, _, study = chosen(archive, prefer=[("kernel", "is", "B30f")], forbid=[("contrast", "is", True)])
    run = tmp_path / "run"
    run.mkdir()
    (run / "private").symlink_to(archive.with_name("a-private"))
    for name in (study.study_uid, study.study_key):
        said = "\n".join(explain(run, name))
        soft, sharp = study.candidates
        assert f"{soft.series_key}             1           1          18           2           0" in said
        assert "chosen" in said.partition(soft.series_key)[2].partition("\n")[0]
        assert "lost: LOST_PREFERENCE" in said.partition(sharp.series_key)[2].partition("\n")[0]
        assert "24 slices, no candidate: SERIES_FORBIDDEN" in said
    with pytest.raises(ConfigurationError, match="no study of that UID"):
        explain(run, "1.2.3")


def test_index_explains_on_request(archive, drenet, tmp_path):
    uid = chosen(archive)[2].study_uid
    done = drenet("index", archive, "--out", tmp_path / "run", "--explain", uid)
    assert done.returncode == 0
    assert done.stdout.count("lost: LOST_") == 2
    assert uid not in done.stdout
    assert "CANARY" not in done.stdout
