"""Who somebody is, as the other side is told: display name and number, and nothing of where he is."""

import pytest

from signaling.errors import ParseError
from signaling.headers import parse_name_addr
from signaling.identity import ANONYMOUS, Identity, carry_identity, clean_user, user_of
from signaling.site import Site

SITE = Site("ours.example", ("203.0.113.9", 5060), "udp")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"Alice B" <sip:alice@pbx.inner.example>;tag=1', "Alice B <sip:alice@ours.example>"),
        ("<sips:alice:pw@10.1.2.3:5061;transport=tls>", "<sip:alice@ours.example>"),
        ("<sip:10.1.2.3>", "<sip:ours.example>"),
        ("<tel:+1-555;phone-context=inner.example;ext=12;x=y>", "<tel:+1-555;ext=12>"),
        ("<tel:555;phone-context=+49>", "<tel:555;phone-context=+49>"),
        ("<sip:+1555;phone-context=pbx.inner.example;npdi;rn=+1777@x;user=phone>",
         "<sip:+1555;npdi;rn=+1777@ours.example;user=phone>"),
        ("<sip:10.1.2.3@10.1.2.3>", "<sip:hidden@ours.example>"),
        ("<sip:alice%4010.1.2.3@10.1.2.3>", "<sip:alice%40hidden@ours.example>"),
        ("<sip:a%40PBX.inner.example@pbx.inner.example>", "<sip:a%40hidden@ours.example>"),
        ("<sip:%70bx.inner.example@pbx.inner.example>", "<sip:hidden@ours.example>"),
        ('"alice@pbx.inner.example" <sip:a@pbx.inner.example>', '"alice@hidden" <sip:a@ours.example>'),
        ('"at 2001:db8::77" <sip:a@x>', "at hidden <sip:a@ours.example>"),
        ('"10:20:30" <sip:a%20b@x>', '"10:20:30" <sip:a%20b@ours.example>'),
        ("大停電 <sip:a@x>", '"大停電" <sip:a@ours.example>'),
        ("<urn:service:sos>", "<sip:ours.example>"),
        ('"Anonymous" <sip:anonymous@anonymous.invalid>;tag=2', ANONYMOUS),
        ('"A" <sip:Anonymous@pbx.inner.example>', ANONYMOUS),
        ("<sip:x7@anonymous.invalid>", ANONYMOUS),
    ],
)  # fmt: skip
def test_identity(value: str, expected: str) -> None:
    assert carry_identity(parse_name_addr(value)).render(SITE) == expected


def test_identity_at_an_ipv6_site() -> None:
    site = Site("2001:db8::9", ("2001:db8::9", 5060), "udp")
    assert carry_identity(parse_name_addr("<sip:a@x>")).render(site) == "<sip:a@[2001:db8::9]>"


def test_identity_hides_further_names_of_its_side() -> None:
    value = parse_name_addr('"core7 core7.lan" <sip:a%40core7.lan@x>')
    assert carry_identity(value).render(SITE) == "core7 core7.lan <sip:a%40core7.lan@ours.example>"
    assert (
        carry_identity(value, ["core7", "core7.lan"]).render(SITE)
        == "hidden hidden <sip:a%40hidden@ours.example>"
    )


@pytest.mark.parametrize("host", ["asterisk", "conf", "1234", "30123"])
def test_a_user_that_is_called_as_a_host_is(host: str) -> None:
    """RFC 3261 s.19.1.1 has no rule that a host name must not be somebody's name or part of it."""
    for user in (host, f"{host}erence", f"49{host}", f"{host}-team"):
        assert clean_user(user, [host]) == user
        assert carry_identity(parse_name_addr(f"<sip:{user}@{host}>"), [host]).user == user


def test_identity_of_a_broken_uri_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        carry_identity(parse_name_addr("<nonsense>"))


def test_an_anonymous_caller_stays_anonymous() -> None:
    identity = carry_identity(parse_name_addr('"Anonymous" <sip:anonymous@anonymous.invalid>'))
    assert identity.anonymous
    assert identity == Identity("Anonymous", "anonymous")
    assert not carry_identity(parse_name_addr("<sip:a@x>")).anonymous


def test_clean_user() -> None:
    assert clean_user("alice") == "alice"
    assert clean_user("10.1.2.3") == "hidden"
    assert clean_user("a;phone-context=x.example") == "a"


@pytest.mark.parametrize(
    ("uri", "user"),
    [
        ("sip:alice@pbx.example", "alice"),
        ("sip:alice%40pbx.example@pbx.example", "alice%40hidden"),
        ("tel:+1-555", "+1-555"),
        ("urn:service:sos.FIRE", "urn:service:sos.fire"),
        ("http://pbx.example/alice", ""),
        ("sip:pbx.example", ""),
        ("no uri", ""),
    ],
)
def test_whom_a_uri_asks_for(uri: str, user: str) -> None:
    assert user_of(uri) == user
