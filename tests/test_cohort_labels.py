"""labels.csv is read as spreadsheets write it, meets patients by their identity, and says which of its rows meet nobody."""

import pytest

from pipeline.cohort.labels import label_of, labelled, read_labels, strangers
from pipeline.errors import ConfigurationError
from pipeline.records import Study

PATIENTS = {"0001": "covid", "0002": "bacterial", "A7": "covid", "А8": "bacterial"}


def study(patient, issuer="", key="", uid=""):
    return Study(key or f"S{patient}", key or f"K{patient}", uid or f"1.{patient}", f"{issuer}\\{patient}")


STUDIES = [study(patient) for patient in PATIENTS]


def found(tmp_path, text, studies=STUDIES, encoding="utf-8"):
    """(labels as read, the label of each study by its ID)."""
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    labels = read_labels(tmp_path / "labels.csv")
    return labels, {one.patient_id.partition("\\")[2]: label_of(one, labels) for one in studies}


TABLES = {
    "plain": ("patient_id,label\n", "{pid},{label}\n", "utf-8"),
    "semicolons": ("patient_id;label\r\n", "{pid};{label}\r\n", "utf-8"),
    "tabs": ("patient_id\tlabel\n", "{pid}\t{label}\n", "utf-8"),
    "capitals": ("Patient_ID,Label\n", "{pid},{label}\n", "utf-8"),
    "blanks": ("patient_id, label\n", " {pid} , {label} \n\n", "utf-8"),
    "a sep= line": ("sep=;\r\npatient_id;label\r\n", "{pid};{label}\r\n", "utf-8"),
    "UTF-16": ("patient_id,label\n", "{pid},{label}\n", "utf-16"),
    "a byte order mark": ("patient_id,label\r\n", "{pid},{label}\r\n", "utf-8-sig"),
    "quoted": ('"patient_id","label"\n', '"{pid}","{label}"\n', "utf-8"),
    "wrapped against spreadsheets": ("patient_id,label\n", '"=""{pid}""",{label}\n', "utf-8"),
    "an empty patient_key beside": ("patient_id,patient_key,label\n", "{pid},,{label}\n", "utf-8"),
    "an empty patient_id beside": ("patient_id,patient_key,label\n", ",K{pid},{label}\n", "utf-8"),
    "other columns": ("age,patient,label,note\n", "7,{pid},{label},x\n", "utf-8"),
}


@pytest.mark.parametrize(("heading", "row", "encoding"), TABLES.values(), ids=TABLES)
def test_a_table_is_read_as_spreadsheets_write_it(heading, row, encoding, tmp_path):
    text = heading + "".join(row.format(pid=pid, label=label) for pid, label in PATIENTS.items())
    assert found(tmp_path, text, encoding=encoding)[1] == PATIENTS


REFUSED = {
    "no such columns": ("name,label\nA,covid\n", "needs the columns"),
    "a heading alone": ("patient_id,label\n", "needs the columns"),
    "nothing": ("", "needs the columns"),
    "key here, ID there": ("patient_id,patient_key,label\n,KA7,covid\n0001,,covid\n", "line 3: other rows name"),
    "an unknown label": ("patient_id,label\n\nA,flu\n", "line 3: unknown label 'flu'"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_meant_is_refused_by_line(text, said, tmp_path):
    with pytest.raises(ConfigurationError, match=said):
        found(tmp_path, text)


def test_bytes_that_are_no_text_are_refused_by_their_place(tmp_path):
    with pytest.raises(ConfigurationError, match="byte 17 is no UTF-8"):
        found(tmp_path, "patient_id,label\nü,covid\n", encoding="latin-1")


CAUSES = {
    "leading zeros": (["1", "2"], "leading zeros are lost"),
    "an apostrophe": (["'0001"], "apostrophes stand around"),
    "small letters": (["a7"], "capitals and small letters differ"),
    "a number": (["1.0"], "made a number"),
    "blanks inside": (["A 7"], "blanks differ"),
    "nobody": (["Z9"], "no such patient"),
    "no name": ([""], "no patient is named"),
}


@pytest.mark.parametrize(("names", "cause"), CAUSES.values(), ids=CAUSES)
def test_rows_that_match_nobody_are_counted_with_the_likeliest_cause(names, cause, tmp_path, caplog):
    rows = "".join(f"{name},covid\n" for name in names)
    labels, _ = found(tmp_path, f"patient_id,label\nA7,covid\n{rows}")
    ((said, count),) = strangers(labels, set(PATIENTS)).items()
    assert cause in said
    assert count == len(names)
    assert f"{len(names)} rows of the labels match nobody here" in caplog.text
    assert not any(name in caplog.text for name in names if len(name) > 1)


def test_training_counts_rows_that_match_nobody(tmp_path):
    labels, _ = found(tmp_path, "patient_id,label\n1,covid\n0002,bacterial\nA7,covid\nZ,covid\n")
    _, left_out = labelled(STUDIES, labels, "covid-vs-bacterial")
    rows = {reason: count for reason, count in left_out.items() if "match nobody" in reason}
    assert sorted(rows.values()) == [1, 1]
    assert not any("," in reason for reason in left_out)  # they stand in a CSV


def test_an_id_is_met_as_it_stands_in_the_file_whatever_its_issuer_and_for_placeholders_too(tmp_path):
    studies = [study("P16", "HOSP"), study("1", "study 1.2.3"), study("ANON", "study 1.2.4"), study("A\\B", "HOSP")]
    _, labels = found(tmp_path, "patient_id,label\nP16,covid\n1,bacterial\nANON,covid\nA\\B,covid\nB,bacterial\n", studies)
    assert labels == {"P16": "covid", "1": "bacterial", "ANON": "covid", "A\\B": "covid"}
    _, labels = found(tmp_path, "patient_id,label\nHOSP\\P16,covid\n", studies)
    assert labels["P16"] == "covid"


def test_an_id_without_a_character_set_is_met_as_latin_1_has_it(tmp_path):
    assert found(tmp_path, "patient_id,label\nMüller,covid\n", [study("\0Müller")])[1] == {"\0Müller": "covid"}


def test_a_label_in_another_normal_form_is_the_same_id(tmp_path):
    assert found(tmp_path, "patient_id,label\ne\u0301,covid\n", [study("é")])[1] == {"é": "covid"}
