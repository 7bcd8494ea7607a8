"""What the archive door's mutants do to the server: every upload of them is answered, and it lives."""

import random
import re

import pytest

from tests.mutants import FAULT, Heap, lay_mutants
from tests.serving import serving
from tests.test_screening_single import numbers
from tests.test_server import batch, key, study, zipped  # noqa: F401  fixtures

pytestmark = pytest.mark.slow
N_MUTANTS = 900


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of damaged slices, objects, pictures, volumes and containers."""
    archive = tmp_path_factory.mktemp("mutants")
    lay_mutants(Heap(archive, 30), N_MUTANTS, random.Random(18))
    return sorted({path.parent for path in archive.rglob("*") if path.is_file()})


def test_every_upload_of_mutants_ends_in_an_answer_with_codes_and_the_server_lives(
    folders, weights, key, study, plain, tmp_path  # noqa: F811
):  # fmt: skip
    with serving(weights, tmp_path / "spool", key=key) as served:
        for folder in folders:
            said = served.answer(served.accepted([(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]))
            codes = [one["code"] for one in said["left_out"]] + [result["reason"] for result in said["results"]]
            assert FAULT not in codes
            assert said["state"] == "done" or (said["state"], said["code"]) == ("failed", "NO_CT")
        (result,) = served.results(served.accepted([("study.zip", zipped(study))]))
        assert numbers(result) == numbers(batch(plain, result))
        metrics = served.ask("/metrics")[2].decode()
        assert re.search(r"^drenet_worker_deaths_total 0$", metrics, re.MULTILINE)
        assert 'status="5' not in metrics
