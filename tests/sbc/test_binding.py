"""What makes a contact the same binding, and how one is stored."""

import pytest

from sbc.binding import Upstream, binding_of, identity_of, phone_of, row_of
from tests.sbc.test_locations import bound


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:alice@10.0.0.1", "sip:alice@10.0.0.1", True),
        ("sip:alice@EXAMPLE.com;Transport=TCP", "sip:alice@example.com;transport=tcp", True),
        ("sip:%61lice@example.com", "sip:alice@example.com", True),
        ("sip:alice@example.com", "sip:Alice@example.com", False),
        ("sip:alice@example.com", "sip:alice@example.com:5060", False),
        ("sip:alice@example.com;ob", "sip:alice@example.com", False),
    ],
)
def test_identity_follows_uri_comparison(one: str, other: str, same: bool) -> None:
    """RFC 3261 s.19.1.4."""
    assert (identity_of(one) == identity_of(other)) is same


def test_identity_with_reg_id_is_the_instance() -> None:
    """RFC 5626 s.6: the Contact URI is of no account then; and its flows are one phone."""
    first = identity_of("sip:a@1.2.3.4", "<urn:uuid:1>", 1)
    assert first == identity_of("sip:b@5.6.7.8", "<urn:uuid:1>", 1)
    second = identity_of("sip:a@1.2.3.4", "<urn:uuid:1>", 2)
    assert first != second
    assert phone_of(first) == phone_of(second)


def test_rows_come_back_as_they_were_with_another_clock() -> None:
    upstream = Upstream("pbx 10.0.0.20:5060", 2000.0, "alice", ("<sip:sr@10.0.0.20;lr>",), "sip:a@b;gr=x", "")
    one = bound(
        upstream=upstream, q=700, instance="<urn:uuid:1>", reg_id=2, outbound=True, nat="Via says 10.0.0.1",
        seen_at=90.0, gruu="00ff",
    )  # fmt: skip
    row = row_of(one, now=100.0, wall=1_000_000.0)
    again = binding_of(row, now=5.0, wall=1_000_010.0)
    assert again is not None
    assert again.expires_at == pytest.approx(5.0 + 50.0)
    assert again.seen_at == pytest.approx(5.0 - 20.0)
    assert again.upstream is not None and again.upstream.expires_at == pytest.approx(5.0 + 1890.0)
    for name in (
        "user",
        "identity",
        "contact",
        "token",
        "flow",
        "call_id",
        "cseq",
        "q",
        "instance",
        "reg_id",
        "nat",
    ):
        assert getattr(again, name) == getattr(one, name)
    assert again.dead == ""
