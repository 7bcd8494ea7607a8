"""What docs/report.md shows works as it stands there."""

import re
from pathlib import Path

from pipeline import open_run

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tables_join_as_the_example_says(plain, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "report.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 15
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(plain.run)
    studies = open_run(plain.run).studies
    studies[["study_key"]].assign(finding="healthy").to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    scored = names["scored"]
    assert len(scored) == studies["probability"].notna().sum() > 0
    assert (scored["lowest"] <= scored["probability"]).all()
    assert (scored["probability"] <= scored["highest"]).all()
    assert (scored["probability_of_patient"] == scored["probability"]).all()  # one study a patient here
    assert (scored["finding"] == "healthy").all()
    assert "healthy" in capsys.readouterr().out


def test_every_picture_and_page_that_the_docs_name_is_there():
    for name in re.findall(r"\]\(([^)#:]+)\)", (DOCS / "report.md").read_text()):
        assert (DOCS / name).exists(), name
