"""Whose images these are: the identity that headers state, and whether several headers can mean one person.

`patient_id` is issuer, backslash and ID, each decoded by its character set; a part that is missing contradicts nothing.
`person` is a short digest of name and birth date where both are there, to tell people apart who bear one ID, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from pipeline.archive.characters import UNDECODED
from pipeline.archive.found import Header
from pipeline.errors import Reason, StudyError

IDENTITY_RULE = 2
"""Counts up when the same headers give other patients: a run goes on only under the rule that it was begun with."""
PLACEHOLDER_IDS = frozenset(
    {"", "0", "1", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "ANON", "UNKNOWN", "NONE", "NA", "N/A", "NULL", "TEST", "XXX"}
)
Who = tuple[str, str, str]
"""(issuer, ID, person)."""


def identity(issuer: str, patient_id: str) -> str:
    """The two as one text; whatever stands in them, no other two give the same."""
    return issuer.replace("\\", UNDECODED) + "\\" + patient_id


@lru_cache(64)
def person(name: str, birth_date: str) -> str:
    """Whom a name and a birth date mean; "" where one of them is missing. Case and separators of a name say nothing."""
    alphabetic = name.partition("=")[0] or name
    spelled = " ".join(alphabetic.casefold().replace("^", " ").replace(",", " ").split())
    if not spelled or not birth_date:
        return ""
    text = f"{spelled}\0{birth_date}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def patient_of(headers: Iterable[Header]) -> Who:
    """Whom all headers mean. Raises StudyError UID_CONFLICT where they contradict each other."""
    return agreed({(*header.patient_id.split("\\", 1), header.person) for header in headers})


def agreed(people: Iterable[tuple[str, ...]]) -> Who:
    """The one person that all mean, each known in part. Raises StudyError UID_CONFLICT where there are two."""
    said = [set(parts) - {""} for parts in zip(*people, strict=True)]
    if any(len(parts) > 1 for parts in said):
        raise StudyError(Reason.UID_CONFLICT, "select")
    issuer, patient_id, who = (next(iter(parts), "") for parts in said)
    return issuer, patient_id, who
