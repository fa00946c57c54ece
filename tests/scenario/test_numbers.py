"""The number that is dialled, and that of who calls, arrive whatever stands beside them: tel URIs, odd host names."""

import pytest

from signaling.message import Request
from tests.harness.border import Agent, Border, audio

NUMBER, CALLER = "+4930123", "+491701"
PLAIN = f"sip:{NUMBER}@border.example"
FROM = f"<sip:{CALLER}@net.example>;tag=f1"
FIELDS = "Allow: INVITE\r\n"


def sides(border: Border, upward: bool) -> tuple[Agent, Agent]:
    """Who calls and who is called."""
    public, private = border.agent("public", "198.51.100.7:5060"), border.agent("private", "10.0.0.20:5060")
    return (private, public) if upward else (public, private)


def dialled(uri: str, to: str, from_: str, extra: str, upward: bool) -> tuple[Request, Border]:
    border = Border()
    caller, callee = sides(border, upward)
    caller.request(
        "INVITE",
        uri=uri,
        to_header=to,
        from_header=from_,
        fields=FIELDS + extra,
        body=audio(caller.address[0]),
    )
    return callee.expect("INVITE"), border


@pytest.mark.parametrize("upward", [False, True])
@pytest.mark.parametrize(
    ("uri", "to", "from_", "extra"),
    [
        (PLAIN, f"<{PLAIN}>", FROM, ""),
        (f"tel:{NUMBER}", f"<tel:{NUMBER}>", FROM, ""),
        (f"TEL:{NUMBER}", f"<TEL:{NUMBER}>", FROM, ""),
        (PLAIN, f"<tel:{NUMBER}>", FROM, ""),
        (PLAIN, f"<{PLAIN}>", f"<tel:{CALLER}>;tag=f1", ""),
        (PLAIN, f"<{PLAIN}>", FROM, f"P-Asserted-Identity: <sip:{CALLER}@net.example>, <tel:{CALLER}>"),
        (PLAIN, f"<{PLAIN}>", FROM, f"P-Preferred-Identity: <tel:{CALLER}>"),
        (PLAIN, f"<{PLAIN}>", FROM, f"Remote-Party-ID: <tel:{CALLER}>;party=calling"),
        (PLAIN, f"<{PLAIN}>", FROM, f"Diversion: <tel:{NUMBER}>;reason=no-answer"),
        (PLAIN, f"<{PLAIN}>", FROM, f"History-Info: <tel:{NUMBER}>;index=1, <tel:{CALLER}>;index=1.1"),
        (PLAIN, f"<{PLAIN}>", FROM, f"Referred-By: <tel:{CALLER}>"),
        (PLAIN, f"<{PLAIN}>", FROM, f"Refer-To: <tel:{NUMBER}>"),
    ],
)
def test_tel_uris_leave_numbers_alone(uri: str, to: str, from_: str, extra: str, upward: bool) -> None:
    got, border = dialled(uri, to, from_, extra, upward)
    assert got.uri.startswith(f"sip:{NUMBER}@")
    assert f"sip:{NUMBER}@" in str(got.get("To"))
    assert f":{CALLER}" in str(got.get("From"))
    assert b"hidden" not in got.encode()
    record = next(iter(border.calls.live.values()))
    assert (record.caller, record.called) == (CALLER, NUMBER)
    assert record.leaks == 0


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("P-Asserted-Identity", f"<sip:{CALLER}@net.example>, <tel:{CALLER}>",
         [f"<sip:{CALLER}@sbc.private.example>", f"<tel:{CALLER}>"]),
        ("P-Asserted-Identity", "<tel:1701;phone-context=+49>", ["<tel:1701;phone-context=+49>"]),
        ("P-Asserted-Identity", "<tel:1701;phone-context=net.example>", ["<tel:1701>"]),
        ("Remote-Party-ID", f"<tel:{CALLER}>;party=calling", [f"<tel:{CALLER}>;party=calling"]),
        ("Diversion", f"<tel:{NUMBER}>;reason=no-answer", [f"<tel:{NUMBER}>;reason=no-answer"]),
        ("History-Info", f"<tel:{NUMBER}>;index=1", [f"<tel:{NUMBER}>;index=1"]),
        ("Referred-By", f"<tel:{CALLER}>", [f"<tel:{CALLER}>"]),
        ("Refer-To", f"<tel:{NUMBER}>", []),
    ],
)  # fmt: skip
def test_tel_uris_cross_as_they_are(name: str, value: str, shown: list[str]) -> None:
    got, _ = dialled(PLAIN, f"<{PLAIN}>", FROM, f"{name}: {value}", False)
    assert got.get_all(name) == shown


def test_tel_uris_of_the_called_cross() -> None:
    border = Border()
    caller, callee = sides(border, False)
    caller.invite(NUMBER)
    callee.answer(
        callee.expect("INVITE"), 180, fields=f"P-Asserted-Identity: <sip:{NUMBER}@pbx.lan>, <tel:{NUMBER}>"
    )
    ringing = caller.expect_answer(180)
    assert ringing.get_all("P-Asserted-Identity") == [f"<sip:{NUMBER}@sbc.public.example>", f"<tel:{NUMBER}>"]


@pytest.mark.parametrize("upward", [False, True])
@pytest.mark.parametrize(
    ("user", "caller", "host"),
    [
        ("conference", "bob", "conf"),
        ("conf", "conf", "conf"),
        ("49301234", "491701", "1234"),
        ("1000", "1000", "1000"),
        ("sales-team", "smithson", "smith"),
        ("asterisk", "asterisk", "asterisk"),
    ],
)
def test_host_names_leave_users_alone(user: str, caller: str, host: str, upward: bool) -> None:
    uri = f"sip:{user}@border.example"
    got, border = dialled(uri, f"<{uri}>", f"<sip:{caller}@{host}>;tag=f1", "", upward)
    assert got.uri.startswith(f"sip:{user}@")
    assert f"sip:{user}@" in str(got.get("To"))
    assert f"sip:{caller}@" in str(got.get("From"))
    record = next(iter(border.calls.live.values()))
    assert (record.caller, record.called) == (caller, user)
