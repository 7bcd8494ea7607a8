"""Tags stand in hexadecimal, so that nothing heavy is loaded to index; pydicom's dictionary says whether they are right."""

from pydicom.datadict import keyword_for_tag

from pipeline.archive import tags

ONE_ELEMENT = {name: value for name, value in vars(tags).items() if name.isupper() and isinstance(value, int)}


def test_every_tag_stands_under_dicoms_own_keyword():
    keywords = {name: keyword_for_tag(tag) for name, tag in ONE_ELEMENT.items()}
    assert len(keywords) > 70
    assert {name: word for name, word in keywords.items() if name.replace("_", "").lower() != word.lower()} == {}


def test_what_is_kept_of_a_header_and_what_is_gone_into_are_tags_that_have_a_name():
    known = set(ONE_ELEMENT.values())
    assert tags.WANTED - set(tags.OVERLAY_BIT_POSITIONS) <= known
    assert known >= tags.SEQUENCES
    assert {keyword_for_tag(tag) for tag in tags.OVERLAY_BIT_POSITIONS} == {"OverlayBitPosition"}
