"""Archives with many files a folder, indexed on several ranks with synchronous sends: each ends, as on one rank."""

import pytest

from tests.sizes import ORDINARY, SMALL, Runner, compare, write_folders, zipped


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("sizes"))


@pytest.mark.parametrize(
    "name", [name if name == ORDINARY[0] else pytest.param(name, marks=pytest.mark.long) for name in SMALL]
)
def test_three_ranks_index_as_one_does(name, runner, tmp_path):
    archive = write_folders(tmp_path / "archive", *SMALL[name])
    assert compare(runner, name, archive, [(3, True)]) == 1


@pytest.mark.long
def test_two_ranks_index_ordinary_folders_with_sends_as_they_are(runner, tmp_path):
    archive = write_folders(tmp_path / "archive", 30, 100)
    assert compare(runner, "30 folders", archive, [(2, False)]) == 1


@pytest.mark.long
def test_long_names_and_large_containers_are_messages_like_others(runner, tmp_path):
    archive = write_folders(tmp_path / "archive", 5, 100, name_length=190)
    zipped(archive / "one.zip", 1000)
    assert compare(runner, "long names, a ZIP", archive, [(3, True)]) == 1
