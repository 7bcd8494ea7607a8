"""Who a patient is: decoded text, never a likeness of it; two people are never one, one person is not made two."""

import shutil
import unicodedata

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from pydicom.uid import generate_uid

from pipeline.archive.characters import UNDECODED, decoded
from pipeline.archive.found import FileRecord
from pipeline.archive.patient import identity, person
from pipeline.archive.selection import build_study
from pipeline.config import SeriesConfig
from pipeline.errors import ConfigurationError
from pipeline.run.plan import Request, plan
from pipeline.run.weights import Weights
from tests.fabricate import KEY, images, indexed, write
from tests.test_archive_stacks import stack_of

SETS = {  # defined term -> (Python's codec, characters that it can write)
    "ISO_IR 100": ("latin-1", "Müllér Ñß"),
    "ISO_IR 101": ("iso8859-2", "Łódź Őř"),
    "ISO_IR 109": ("iso8859-3", "Ĉĝħ"),
    "ISO_IR 110": ("iso8859-4", "Āēģ"),
    "ISO_IR 144": ("iso8859-5", "АБВабв"),
    "ISO_IR 127": ("iso8859-6", "ابت"),
    "ISO_IR 126": ("iso8859-7", "Δλς"),
    "ISO_IR 138": ("iso8859-8", "אבג"),
    "ISO_IR 148": ("iso8859-9", "Ğışö"),
    "ISO_IR 203": ("iso8859-15", "Œž€"),
    "ISO_IR 13": ("shift_jis", "ﾔﾏﾀﾞ"),
    "ISO_IR 166": ("tis-620", "นามสกุล"),
    "ISO_IR 192": ("utf-8", "АБ山é€ğ𠮷"),
    "GB18030": ("gb18030", "王小东é𠮷"),
    "GBK": ("gbk", "王小东"),
}


@pytest.mark.parametrize("term", SETS)
def test_text_is_read_by_its_character_set_whatever_it_says(term):
    codec, letters = SETS[term]
    rng = np.random.default_rng(len(term))
    for _ in range(50):
        text = "".join(rng.choice(list(letters + "AZ09-_."), size=rng.integers(1, 12))).strip()
        wanted = unicodedata.normalize("NFC", text)
        for padded in (text.encode(codec), text.encode(codec) + b" ", text.encode(codec) + b"\0"):
            assert decoded(padded, term.encode()) == wanted


EXTENDED = {  # PS3.5 Annexes H, I, J and K, and sets in one another
    b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B": (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J": ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
    b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7": ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞"),
    b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab": ("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东"),
    b"Dionysius is \x1b-F\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2": ("ISO 2022 IR 100\\ISO 2022 IR 126", "Dionysius is Διονυσιος"),
    b"M\xfcller \x1b-L\xbb\xee\xda": ("ISO 2022 IR 100\\ISO 2022 IR 144", "Müller Люк"),
    b"\x1b-L\xbb\xee\xda^M\xfcller": ("ISO 2022 IR 100\\ISO 2022 IR 144", "Люк^Müller"),
}


@pytest.mark.parametrize("value", EXTENDED)
def test_escape_sequences_change_the_set_within_a_value(value):
    term, text = EXTENDED[value]
    assert decoded(value, term.encode()) == text


def test_what_cannot_be_decoded_stands_for_its_bytes_and_for_no_others():
    values = [b"\xc4\x80", b"\xc3\x84", b"\xff", b"\x80", "é".encode(), "é".encode("latin-1"), b"A\x1b$Zq"]
    found = {decoded(value, term) for value in values for term in (b"", b"ISO_IR 6", b"private 7")}
    assert len(found) == len(values) + 1  # the last is all ASCII: text where nothing is declared
    assert all(text.startswith(UNDECODED) for text in found if not text.isascii())
    assert decoded(b"\xff\xfe", b"ISO_IR 192") == UNDECODED + "ÿþ"
    assert msgspec.json.decode(msgspec.json.encode(UNDECODED + "ÿþ")) == UNDECODED + "ÿþ"


def test_at_random_different_bytes_are_different_identities_and_one_text_in_two_sets_is_one():
    rng = np.random.default_rng(7)
    for term in ("", "ISO_IR 100", "ISO_IR 144", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 149"):
        values = {bytes(rng.integers(33, 256, size=rng.integers(1, 5), dtype=np.uint8)) for _ in range(2000)}
        texts = {value: decoded(value, term.encode()) for value in values}
        normal = {unicodedata.normalize("NFC", text) for text in texts.values()}
        assert len(set(texts.values())) == len(normal) == len(values)
    cyrillic = [chr(code) for code in range(0x410, 0x450)]
    for _ in range(200):
        text = "".join(rng.choice(cyrillic, size=6))
        assert decoded(text.encode("iso8859-5"), b"ISO_IR 144") == decoded(text.encode(), b"ISO_IR 192") == text


def test_no_other_issuer_and_id_give_the_same_identity():
    pairs = [("A", "B\\C"), ("A\\B", "C"), ("", "A\\B\\C"), ("A", "B"), ("", "A\\B"), ("A\\B", "")]
    assert len({identity(*pair) for pair in pairs}) == len(pairs)


def test_a_name_is_the_same_in_any_case_and_with_empty_parts_but_not_on_another_birth_date():
    assert person("Doe^John", "19010203") == person("DOE, JOHN^^", "19010203") == person("doe^john=どう^じょん", "19010203")
    assert len({person("Doe^John", "19010203"), person("Doe^Jane", "19010203"), person("Doe^John", "19010204")}) == 3
    assert person("Doe^John", "") == person("", "19010203") == ""


# ---- from files ----


def of_person(name="1", **values):
    data_sets = images(name)
    for data in data_sets:
        for keyword, value in values.items():
            setattr(data, keyword, value)
    return data_sets


def test_two_cyrillic_patients_who_differ_in_one_letter_are_two_and_one_in_two_sets_is_one(tmp_path):
    people = [("А1", "ISO_IR 192"), ("Б1", "ISO_IR 192"), ("А1", "ISO_IR 144"), ("e\u0301", "ISO_IR 192"), ("é", "ISO_IR 100")]
    for n, (patient, term) in enumerate(people):
        write(tmp_path / "a" / str(n), of_person(str(n), SpecificCharacterSet=term, PatientID=patient))
    _, studies = indexed(tmp_path / "a")
    assert sorted(study.patient_id for study in studies) == ["\\é", "\\é", "\\А1", "\\А1", "\\Б1"]
    assert len({study.patient_key for study in studies}) == 3


def test_a_plain_ids_pseudonym_is_what_it_was(tmp_path):
    write(tmp_path / "a", of_person(PatientID="P16", IssuerOfPatientID="HOSP"))
    _, (study,) = indexed(tmp_path / "a")
    assert (study.patient_id, study.patient_key) == ("HOSP\\P16", "RR5ZHYD7YYKHIFE2DIVXCHOSMQ")


def report_of(**values):
    (report,) = of_person(**values)[:1]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    report.SeriesInstanceUID, report.SOPInstanceUID = "1.2.3.9", "1.2.3.9.1"
    del report.PixelData
    return report


@pytest.mark.parametrize("said", [{}, {"PatientID": "OTHER"}, {"PatientID": ""}, {"IssuerOfPatientID": "ELSEWHERE"}], ids=str)
def test_a_report_never_decides_who_the_patient_is(said, tmp_path):
    write(tmp_path / "a" / "ct", of_person(PatientID="P16", IssuerOfPatientID="HOSP"))
    write(tmp_path / "a" / "sr", [report_of(**({"PatientID": "P16"} | said))])
    _, (study,) = indexed(tmp_path / "a")
    assert (study.status, study.patient_id) == ("READY", "HOSP\\P16")
    assert [event.code for event in study.events] == ["NON_IMAGE_ONLY"]


PEOPLE = {
    "another ID": ({"PatientID": "A1"}, {"PatientID": "B2"}),
    "another issuer": ({"IssuerOfPatientID": "HERE"}, {"IssuerOfPatientID": "THERE"}),
    "one ID, another name and birth date": (
        {"PatientName": "Doe^John", "PatientBirthDate": "19010203"},
        {"PatientName": "Roe^Jane", "PatientBirthDate": "19200506"},
    ),
    "one ID, another birth date": ({"PatientBirthDate": "19010203"}, {"PatientBirthDate": "19010204"}),
}


@pytest.mark.parametrize("shift_mm", [0.0, 1.3])
@pytest.mark.parametrize(("one", "two"), PEOPLE.values(), ids=PEOPLE)
def test_two_people_under_one_series_uid_refuse_the_series(one, two, shift_mm, tmp_path):
    second = of_person(**two)
    for data in second:
        data.SOPInstanceUID = generate_uid(entropy_srcs=[data.SOPInstanceUID])
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, float(z) + shift_mm]
    write(tmp_path / "a" / "1", of_person(**one))
    write(tmp_path / "a" / "2", second)
    _, (study,) = indexed(tmp_path / "a")
    assert (study.status, study.reason, study.candidates) == ("FAILED", "UID_CONFLICT", ())
    assert study.patient_id.startswith("study ")


AGREE = {
    "an ID that some slices lack": {"PatientID": ""},
    "an issuer that some slices lack": {"IssuerOfPatientID": None},
    "a birth date that some slices lack": {"PatientBirthDate": None},
    "a name in capitals": {"PatientName": "CANARYNAME^1^^"},
}


@pytest.mark.parametrize("said", AGREE.values(), ids=AGREE)
def test_what_is_missing_or_written_otherwise_contradicts_nothing(said, tmp_path):
    data_sets = of_person(IssuerOfPatientID="HOSP", PatientName="Canaryname^1")
    for data in data_sets[::2]:
        for keyword, value in said.items():
            setattr(data, keyword, value)
    write(tmp_path / "a", data_sets)
    _, (study,) = indexed(tmp_path / "a")
    assert (study.status, study.patient_id) == ("READY", "HOSP\\CANARYID-1")


def test_of_two_peoples_series_in_one_study_only_the_chosen_ones_patient_is_screened():
    one = stack_of("a", thickness=1.0)
    other = [replace(header, series_uid="1.2", patient_id="\\P2") for header in stack_of("b")]
    study = build_study("1", [FileRecord(headers=(header,)) for header in (*one, *other)], SeriesConfig(), KEY)
    assert (study.status, study.patient_id, len(study.candidates)) == ("READY", "\\P1", 1)
    assert {(event.code, event.count) for event in study.events} == {("UID_CONFLICT", 40)}


def test_a_placeholder_joins_no_studies_but_keeps_what_is_written(tmp_path):
    for name, patient in (("1", "1"), ("2", "1"), ("3", "2"), ("4", "anon")):
        write(tmp_path / "a" / name, of_person(name, PatientID=patient))
    _, studies = indexed(tmp_path / "a")
    assert len({study.patient_key for study in studies}) == 4
    assert sorted(study.patient_id.partition("\\")[2] for study in studies) == ["1", "1", "2", "anon"]


def test_a_run_begun_under_the_earlier_identity_rule_is_refused_at_its_resume(plain, weights, tmp_path):
    shutil.copytree(plain.run, tmp_path / "run")
    request = Request(plain.archive, (Weights(weights),), tmp_path / "run", key_file=plain.run.with_name("key"))
    described = tmp_path / "run" / "run.toml"
    described.write_text("\n".join(line for line in described.read_text().splitlines() if "identity_rule" not in line))
    with pytest.raises(ConfigurationError, match="read patients' IDs without their character set"):
        plan(request)
