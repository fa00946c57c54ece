"""Which contacts of a 3xx are followed, in which order."""

import pytest

from signaling.callee import MAX_CONTACTS, contacts_of
from signaling.headers import qvalue
from signaling.message import Response


def contacts(*lines: str) -> tuple[str, ...]:
    return contacts_of(Response(302, "Moved Temporarily", [("Contact", line) for line in lines]))


def test_the_most_wanted_come_first_and_equals_in_their_order() -> None:
    assert contacts(
        "<sip:a@h>;q=0.1, <sip:b@h>;q=0.9", "<sip:c@h>, <sip:d@h>;q=1.0, <sip:e@h>;q=nonsense"
    ) == (
        "sip:c@h",
        "sip:d@h",
        "sip:e@h",
        "sip:b@h",
        "sip:a@h",
    )


def test_malformed_contacts_are_left_out_and_their_number_is_bounded() -> None:
    assert contacts("<sip:a@h", "<sip:b@h>") == ("sip:b@h",)
    assert len(contacts(", ".join(f"<sip:{number}@h>" for number in range(40)))) == MAX_CONTACTS


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, 1000), ("", 1000), ("0.5", 500), ("0", 0), ("1.001", 1000), ("2", 1000), ("0.1234", 1000)],
)
def test_qvalue(text: str | None, value: int) -> None:
    assert qvalue(text) == value
