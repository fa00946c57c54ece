"""What crosses the border (design.md s.4.1, RFC 5853 s.3.1) and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.guard import hosts_of
from signaling.headers import parse_name_addr
from signaling.identity import ANONYMOUS, carry_identity
from signaling.message import Message, Request, Response
from signaling.parser import parse
from signaling.site import Site
from signaling.topology import HEADERS, NOTHING, carry_body, carry_request, carry_response, describe, render
from signaling.uri import unescape

SITE = Site("ours.example", ("203.0.113.9", 5060), "udp")


def request(*extra: tuple[str, str]) -> Request:
    return Request(
        "INVITE",
        "sip:bob@border.inner.example",
        [
            ("Via", "SIP/2.0/UDP 10.1.2.3:5060;branch=z9hG4bKsecret;received=10.1.2.4"),
            ("From", '"Alice" <sip:alice@pbx.inner.example>;tag=fromtag'),
            ("To", "<sip:bob@border.inner.example>"),
            ("Call-ID", "callid@10.1.2.3"),
            ("CSeq", "1 INVITE"),
            ("Contact", "<sip:alice@10.1.2.3:5060;gr=urn:uuid:f81d>"),
            *extra,
        ],
    )


def crossed(*extra: tuple[str, str], site: Site = SITE) -> list[tuple[str, str]]:
    return render(carry_request(request(*extra)), site)


def answered(*extra: tuple[str, str]) -> list[tuple[str, str]]:
    return render(carry_response(Response(486, "Busy Here", [*request().fields, *extra])), SITE)


def test_nothing_crosses_by_itself() -> None:
    assert carry_request(request()) == NOTHING
    assert crossed(("X-Custom", "a"), ("User-Agent", "PBX 1.2"), ("Organization", "Inner")) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("P-Asserted-Identity", "<sip:+1555@pbx.inner.example;user=phone>", ["<sip:+1555@ours.example;user=phone>"]),
        ("P-Asserted-Identity", '"A" <sip:a@x>, <tel:+1555>', ["A <sip:a@ours.example>", "<tel:+1555>"]),
        ("P-Asserted-Identity", "<sip:a@10.1.2.3:5070;transport=tcp;gr=x?Route=y>;z=1", ["<sip:a@ours.example>"]),
        ("P-Preferred-Identity", "sip:a@x", ["<sip:a@ours.example>"]),
        ("Remote-Party-ID", "<sip:a@x>;party=calling;screen=yes;x=pbx",
         ["<sip:a@ours.example>;party=calling;screen=yes"]),
        ("Diversion", '<sip:a@x>;reason="user-busy";counter=2;x=y',
         ["<sip:a@ours.example>;reason=user-busy;counter=2"]),
        ("Diversion", "<tel:+1555;phone-context=inner.example>;reason=10.1.2.3", ["<tel:+1555>"]),
        ("History-Info", "<sip:a@x?Reason=SIP%3Bcause%3D302%3Btext%3D%22pbx%22&Privacy=history>;index=1.1;rc=1;x=y",
         ["<sip:a@ours.example?Reason=SIP%3Bcause%3D302&Privacy=history>;index=1.1;rc=1"]),
        ("History-Info", "<sip:a@x?Privacy=id&Reason=SIP%3Bcause%3D302>;index=1",
         ["<sip:a@ours.example?Reason=SIP%3Bcause%3D302&Privacy=id>;index=1"]),
        ("History-Info", "<sip:a@x?Privacy=history%3Bid%3Bpbx>;index=1",
         ["<sip:a@ours.example?Privacy=history%3Bid>;index=1"]),
        ("History-Info", "<sip:a@x?Privacy=pbx>;index=1", ["<sip:a@ours.example>;index=1"]),
        ("History-Info", "<sip:a@x;cause=486>;index=1", ["<sip:a@ours.example;cause=486>;index=1"]),
        ("b", "<sip:a@x>;cid=\"1@10.1.2.3\"", ["<sip:a@ours.example>"]),
        ("Reason", 'Q.850;cause=16;text="cleared by pbx.inner.example"',
         ['Q.850;cause=16;text="Normal call clearing"']),
        ("Reason", 'SIP ;cause=200 ;text="picked up by 10.1.2.3"', ['SIP;cause=200;text="Call completed elsewhere"']),
        ("Reason", "Q.850;cause=17;location=LN, SIP;cause=486",
         ['Q.850;cause=17;text="User busy";location=LN', 'SIP;cause=486;text="Busy Here"']),
        ("Reason", "Q.850;cause=126;text=x", ["Q.850;cause=126"]),
        ("Reason", "pbx;cause=1", []),
        ("Reason", "SIP;cause=pbx", []),
        ("s", "Call me, please at 10.1.2.3 or alice@PBX.inner.example", ["Call me, please at hidden or alice@hidden"]),
        ("Privacy", "id;user;pbx", ["id;user"]),
        ("Privacy", "none", ["none"]),
        ("Priority", "EMERGENCY", ["emergency"]),
        ("Priority", "pbx", []),
        ("Resource-Priority", "q735.0, ets.1, dsn.flash, evil.example", ["q735.0", "ets.1", "dsn.flash"]),
        ("Accept-Language", "da, en-gb;q=0.8, pbx_inner", ["da", "en-gb;q=0.8"]),
        ("Alert-Info", "<urn:alert:service:call-waiting>, <http://10.1.2.3/ring.wav>",
         ["<urn:alert:service:call-waiting>"]),
        ("Alert-Info", "<urn:alert:service:normal@inner.example>", []),
        ("User-to-User", "56a390f3d2b7310023a2;encoding=hex;purpose=isdn-uui",
         ["56a390f3d2b7310023a2;encoding=hex;purpose=isdn-uui"]),
        ("User-to-User", "pbx.inner.example", []),
        ("Answer-Mode", "auto;require", ["Auto"]),
        ("P-Early-Media", "supported, inner", ["supported"]),
        ("Event", "message-summary;id=1", ["message-summary"]),
        ("Event", "pbx-inner", []),
        ("Subscription-State", "active;expires=60", ["active"]),
        ("Call-Info", "<http://10.1.2.3/icon>;purpose=icon", []),
        ("Geolocation", "<cid:x@10.1.2.3>", []),
        ("Identity", "abc;info=<https://inner.example/c>", []),
        ("Replaces", "callid@10.1.2.3;to-tag=1;from-tag=2", []),
        ("In-Reply-To", "callid@10.1.2.3", []),
        ("Warning", '399 pbx "x"', []),
        ("P-Asserted-Identity", "<sip:", []),
        ("P-Asserted-Identity", "<sip:a@b c>", []),
    ],
)  # fmt: skip
def test_request_field(name: str, value: str, expected: list[str]) -> None:
    assert [text for _, text in crossed((name, value))] == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Warning", '304 pbx.inner.example:5060 "no such codec at 10.1.2.3"', ['304 sbc "Media type not available"']),
        ("Warning", '399 10.1.2.3 "x", 301 a "y"', ['399 sbc "Miscellaneous warning"',
                                                  '301 sbc "Incompatible network address formats"']),
        ("Warning", "999 pbx x", []),
        ("Reason", "Q.850;cause=17", ['Q.850;cause=17;text="User busy"']),
        ("Retry-After", "120 (back at 10.1.2.3)", []),
        ("Server", "PBX", []),
        ("Subject", "x", []),
        ("P-Asserted-Identity", "Bob <sip:bob@x>", ["Bob <sip:bob@ours.example>"]),
        ("WWW-Authenticate", 'Digest realm="inner"', []),
        ("Error-Info", "<sip:busy@10.1.2.3>", []),
    ],
)  # fmt: skip
def test_response_field(name: str, value: str, expected: list[str]) -> None:
    assert [text for _, text in answered((name, value))] == expected


def test_a_word_that_is_a_host_of_its_side_does_not_cross() -> None:
    fields = (
        ("Alert-Info", "<urn:alert:service:core7>"),
        ("Info-Package", "core7"),
        ("Route", "<sip:core7;lr>"),
    )
    assert crossed(*fields) == []
    assert len(crossed(*fields[:2])) == 2


def test_names_are_written_out() -> None:
    assert crossed(("s", "hello")) == [("Subject", "hello")]


def test_values_are_bounded() -> None:
    assert len(crossed(*[("P-Asserted-Identity", ", ".join(["<sip:a@b>"] * 100))] * 50)) <= 64
    assert len(crossed(("Subject", "x" * 5000))[0][1]) == 256


# -- trust ------------------------------------------------------------------------------------------------


def test_private_identity_stays_in_the_trust_domain() -> None:
    fields = (("P-Asserted-Identity", "<sip:a@x>"), ("Privacy", "id"))
    stranger = Site("ours.example", ("203.0.113.9", 5060), "udp", trusted=False)
    assert [name for name, _ in crossed(*fields)] == ["P-Asserted-Identity", "Privacy"]
    assert crossed(*fields, site=stranger) == [("Privacy", "id")]
    public = (("P-Asserted-Identity", "<sip:a@x>"), ("Privacy", "none"))
    assert [name for name, _ in crossed(*public, site=stranger)] == ["P-Asserted-Identity", "Privacy"]


@pytest.mark.parametrize(
    ("privacy", "shown"),
    [("id", ANONYMOUS), ("history", ANONYMOUS), ("none", "<sip:a@ours.example?Privacy=none>")],
)
def test_a_private_history_stays_in_the_trust_domain(privacy: str, shown: str) -> None:
    stranger = Site("ours.example", ("203.0.113.9", 5060), "udp", trusted=False)
    field = ("History-Info", f"<sip:a@x?Privacy={privacy}>;index=1")
    assert crossed(field, site=stranger) == [("History-Info", f"{shown};index=1")]


def test_a_stranger_is_not_believed_what_it_asserts_of_itself() -> None:
    fields = (
        ("P-Asserted-Identity", "<sip:a@x>"),
        ("P-Preferred-Identity", "<sip:a@x>"),
        ("Remote-Party-ID", "<sip:a@x>"),
        ("Subject", "lunch"),
    )
    assert [name for name, _ in carry_request(request(*fields), trusted=False).fields] == ["Subject"]
    response = Response(486, "Busy Here", [*request().fields, *fields, ("Privacy", "id")])
    assert [name for name, _ in carry_response(response, trusted=False).fields] == ["Privacy"]


# -- bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("", b"", ("", b"")),
        ("application/dtmf-relay", b"Signal= 5\r\nDuration= 0160\r\nX=10.1.2.3\r\n",
         ("application/dtmf-relay", b"Signal=5\r\nDuration=160\r\n")),
        ("application/dtmf-relay", b"Signal=55", None),
        ("application/dtmf", b"#\r\n", ("application/dtmf", b"#")),
        ("application/dtmf", b"12", None),
        ("message/sipfrag;version=2.0", b"SIP/2.0 200 fine at pbx\r\nContact: <sip:10.1.2.3>\r\n",
         ("message/sipfrag;version=2.0", b"SIP/2.0 200 OK\r\n")),
        ("message/sipfrag", b"INVITE sip:x SIP/2.0", None),
        ("message/sipfrag", b"SIP/2.0 2000 x", None),
        ("text/plain", "grüße".encode(), ("text/plain;charset=utf-8", "grüße".encode())),
        ("text/plain", b"I am at 10.1.2.3", ("text/plain;charset=utf-8", b"I am at hidden")),
        ("text/plain", b"x" * 9000, None),
        ("application/simple-message-summary",
         b"Messages-Waiting: yes\r\nMessage-Account: sip:a@pbx\r\nVoice-Message: 2/8 (0/2)\r\nX: 1/2\r\n",
         ("application/simple-message-summary", b"Messages-Waiting: yes\r\nVoice-Message: 2/8 (0/2)\r\n")),
        ("application/simple-message-summary", b"pbx", None),
        ("application/media_control+xml", b"<x>nothing</x>", None),
        ("application/pidf+xml", b"<presence entity='sip:a@10.1.2.3'/>", None),
        ("application/sdp", b"v=0\r\n", None),
        ("multipart/mixed", b"--x", None),
    ],
)  # fmt: skip
def test_body(kind: str, body: bytes, expected: tuple[str, bytes] | None) -> None:
    assert carry_body(kind, body) == expected


def test_fast_update_is_made_anew() -> None:
    made = carry_body("application/media_control+xml", b"<a b='pbx'><picture_fast_update/></a>")
    assert made is not None
    assert b"picture_fast_update" in made[1]
    assert b"pbx" not in made[1]


# -- the list -----------------------------------------------------------------------------------------------


def test_every_field_has_one_row_and_a_reason() -> None:
    names = [row.name.lower() for row in HEADERS]
    assert len(names) == len(set(names))
    assert all(row.how for row in HEADERS)
    assert {row.fate for row in HEADERS if row.carry} == {"crosses", "rewritten"}
    assert {row.fate for row in HEADERS if not row.carry} == {"ours", "dropped"}


def test_the_list_can_be_read() -> None:
    table = describe()
    assert "| Diversion | rewritten |" in table
    assert table.count("\n") == len(HEADERS) + 2


# -- the proof ----------------------------------------------------------------------------------------------

LABELS = st.from_regex(r"zq[a-z0-9]{3,6}", fullmatch=True)
NAMED = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
DOMAINS = st.lists(LABELS, min_size=2, max_size=3).map(".".join)
HOSTS = st.one_of(
    NAMED,
    NAMED.map(str.upper),
    st.ip_addresses(v=4).map(str).filter(lambda text: text != "0.0.0.0"),
    st.ip_addresses(v=6).map(str).filter(lambda text: len(text) > 4),
)
WORDS = st.from_regex(r"zz[A-Za-z0-9]{6,10}", fullmatch=True)
USERS = st.from_regex(r"\+?[a-w1-9]{3,8}", fullmatch=True)


@st.composite
def incoming(draw: st.DrawFn) -> tuple[Message, list[str], str]:
    """A message full of canaries, the canaries, and a user part that has to cross."""
    # The first one is put into user parts, where a single label may be somebody's name.
    hosts = [draw(DOMAINS), *(draw(HOSTS) for _ in range(3))]
    uri_hosts = [f"[{host}]" if ":" in host else host for host in hosts]
    words = [draw(WORDS) for _ in range(8)]
    user = draw(USERS)

    def host() -> str:
        return draw(st.sampled_from(uri_hosts))

    def bare() -> str:
        return draw(st.sampled_from(hosts))

    def spiced(text: str) -> str:
        """A display name with something of the inside in it."""
        return draw(st.sampled_from([text, f"{text} {bare()}", f"{text}@{bare()}", f"({bare()}){text}"]))

    def party() -> str:
        name = spiced("Alice")
        who = draw(
            st.sampled_from(
                [user, f"{user};phone-context={words[4]}", f"{user}%40{hosts[0]}", f"{user}:{words[5]}"]
            )
        )
        tail = draw(
            st.sampled_from(
                [
                    "",
                    ":5061",
                    f";maddr={host()}",
                    f";gr={words[6]}",
                    f"?X-In={words[7]}&Route=%3Csip:{host()}%3E",
                ]
            )
        )
        return f'"{name}" <sip:{who.replace(":" + hosts[0], "")}@{host()}{tail}>'

    parties = st.sampled_from(
        [
            "P-Asserted-Identity",
            "P-Preferred-Identity",
            "Remote-Party-ID",
            "Diversion",
            "History-Info",
            "Referred-By",
        ]
    )
    texts = st.sampled_from(
        [
            ("Subject", f"call {bare()} now"),
            ("Subject", f"{bare().upper()}"),
            ("Reason", f'Q.850;cause=16;text="{words[0]} {bare()}"'),
            ("Reason", f'SIP;cause=503;text="{words[1]}";location={words[2]}'),
            ("Reason", f"{words[0]};cause=1"),
            ("Warning", f'399 {host()} "{words[0]} {bare()}"'),
            ("Warning", f'305 {words[1]} "{bare()}"'),
            ("Alert-Info", f"<http://{host()}/{words[0]}.wav>"),
            ("Alert-Info", f"<urn:alert:service:normal@{bare()}>"),
            ("Call-Info", f"<sip:{host()}>;answer-after=0;x={words[0]}"),
            ("Error-Info", f"<sip:busy@{host()}>"),
            ("Priority", words[0]),
            ("Privacy", f"id;{words[0]}"),
            ("Resource-Priority", f"{words[0]}.0, ets.{words[1]}"),
            # Neither is a language tag (RFC 4647 s.2.1), which may be any eight letters.
            ("Accept-Language", f"en, {words[0]}_x, {words[2]}.x, en-{words[1]}xxx"),
            ("User-to-User", f"{words[0]};encoding=ascii"),
            ("Organization", words[0]),
            ("X-Secret", words[1]),
            ("In-Reply-To", words[2]),
            ("Event", words[3]),
            ("Subscription-State", f"active;reason={words[3]}"),
            ("Retry-After", f"5 ({words[0]})"),
            ("Identity", f"{words[1]};info=<https://{host()}/c>"),
            ("P-Charging-Vector", f"icid-value={words[2]};orig-ioi={bare()}"),
            ("Geolocation", f"<cid:{words[0]}@{bare()}>"),
            (words[3], words[4]),
        ]
    )
    fields = [
        ("Via", f"SIP/2.0/UDP {host()}:5060;branch=z9hG4bK{words[0]};received={bare()};rport=1"),
        ("From", f"{party()};tag={words[1]}"),
        ("To", f"<sip:{user}@{host()}>;tag={words[2]}"),
        ("Call-ID", f"{words[3]}@{bare()}"),
        ("CSeq", "1 INVITE"),
        ("Contact", f"<sip:{user}@{host()}:5070;ob>;+sip.instance=\"<urn:uuid:{words[4]}>\""),
        ("Record-Route", f"<sip:{host()};lr;x={words[5]}>"),
        ("User-Agent", words[6]),
        ("Server", words[7]),
    ]  # fmt: skip
    # Every host of the canaries is one that the message names as a machine.
    fields += [("Route", f"<sip:{name};lr>") for name in uri_hosts]
    fields += [
        (draw(parties), f"{party()};reason={words[0]};index=1;x={bare()}")
        for _ in range(draw(st.integers(0, 4)))
    ]
    fields += draw(st.lists(texts, max_size=8))
    message: Message
    if draw(st.booleans()):
        message = Request("INVITE", f"sip:{user}@{host()}", fields)
    else:
        message = Response(486, f"{words[0]} {bare()}", fields)
    return message, [*hosts, *words], user


def spellings(canary: str) -> set[str]:
    return {canary.lower(), f"[{canary.lower()}]"}


@given(incoming())
def test_no_canary_crosses(case: tuple[Message, list[str], str]) -> None:
    message, canaries, user = case
    parsed = parse(message.encode())
    carried = carry_request(parsed) if isinstance(parsed, Request) else carry_response(parsed)
    caller = carry_identity(parsed.from_, hosts_of(parsed)).render(SITE)
    lines = [f"{name}: {value}" for name, value in render(carried, SITE)] + [caller]
    assert user in caller
    text = "\n".join(lines)
    for shown in (text.lower(), unescape(text).lower(), unescape(unescape(text)).lower()):
        for canary in canaries:
            assert not any(spelling in shown for spelling in spellings(canary)), (canary, text)
    # What crosses is a message that others can read.
    again = Request("INVITE", "sip:x@y.example", [*request().fields, *render(carried, SITE)])
    assert parse(again.encode()) == again
    for name in ("P-Asserted-Identity", "Diversion", "History-Info"):
        for value in again.values(name):
            assert "@ours.example" in parse_name_addr(value).uri_text


@given(incoming(), st.sampled_from(["text/plain", "message/sipfrag", "application/dtmf-relay"]))
def test_no_canary_crosses_in_a_body(case: tuple[Message, list[str], str], kind: str) -> None:
    message, canaries, _ = case
    body = b"SIP/2.0 200 OK\r\n" + message.encode() if kind == "message/sipfrag" else message.encode()
    made = carry_body(kind, body, hosts_of(message))
    if made is None:
        return
    shown = made[1].decode().lower()
    hosts = canaries[:4] if kind == "text/plain" else canaries
    assert not any(canary.lower() in shown for canary in hosts)


@given(st.text(max_size=200), st.sampled_from([row.name for row in HEADERS if row.carry]))
def test_any_value_is_carried_or_dropped(value: str, name: str) -> None:
    message = request((name, value))
    for carried in (carry_request(message), carry_response(Response(200, "OK", message.fields))):
        for field, text in render(carried, SITE):
            assert "\r" not in text, field
            assert "\n" not in text, field
