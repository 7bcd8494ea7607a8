"""Archives with many files a folder, indexed on several ranks with synchronous sends: each ends, as on one rank."""

import pytest

from tests.sizes import SMALL, Runner, compare, write_folders, zipped


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("sizes"))


@pytest.mark.parametrize("name", SMALL)
def test_three_ranks_index_as_one_does(name, runner, tmp_path):
    archive = write_folders(tmp_path / "archive", *SMALL[name])
    assert compare(runner, name, archive, [(3, True)]) == 1


def test_two_ranks_index_ordinary_folders_with_sends_as_they_are(runner, tmp_path):
    archive = write_folders(tmp_path / "archive", 30, 100)
    assert compare(runner, "30 folders", archive, [(2, False)]) == 1


def test_long_names_and_large_containers_are_messages_like_others(runner, tmp_path):
    archive = write_folders(tmp_path / "archive", 5, 100, name_length=190)
    zipped(archive / "one.zip", 1000)
    assert compare(runner, "long names, a ZIP", archive, [(3, True)]) == 1
