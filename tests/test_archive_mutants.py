"""Some hundred damaged files beside good studies, on three ranks; `make mutants` screens 20,000."""

import pytest

from tests import mutants

SEED = 3


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_run_over_mutants_ends_well_and_good_studies_have_the_rows_of_a_run_without_them(tmp_path):
    clean, damaged, n_mutants = mutants.compared(tmp_path, 300, SEED, per_folder=10)
    assert n_mutants >= 300
    assert mutants.troubles(clean, damaged) == []
    assert len(damaged.rows()) > len(clean.rows())
    assert damaged.rank_mb < 1.2 * clean.rank_mb
