"""A trunk that challenges, and that we register at: a real Kamailio, whose nonces are short-lived and counted."""

import re
import time

import pytest

from tests.lab import sipp
from tests.lab.border import Border, configuration
from tests.lab.carrier import ACCOUNT, PASSWORD, PHONE, USER, Carrier
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, obstacle
from tests.lab.talk import rows

pytestmark = pytest.mark.lab
CREDENTIALS = f"credentials: {{username: {ACCOUNT}, password: {PASSWORD}}}, domain: carrier.example, "
REGISTER = f'register: {{user: "{USER}", expires_s: 60, retry_s: 1}}, '


@pytest.fixture(autouse=True)
def machine_with_kamailio() -> None:
    reason = obstacle("kamailio", "kamcmd")
    if reason:
        pytest.skip(reason)


def start(lab: Lab, settings: str = CREDENTIALS) -> Border:
    text = configuration(lab.namespaces)
    assert text.count("carrier: {network: public, ") == 1
    return lab.start(text.replace("carrier: {network: public, ", "carrier: {network: public, " + settings))


def await_state(border: Border, state: str, timeout_s: float = 20.0) -> dict[str, str]:
    deadline = time.monotonic() + timeout_s
    while (row := rows(border, "trunks", "registered")[0])["state"] != state:
        assert time.monotonic() < deadline, (row, border.process.text[-2000:])
        time.sleep(0.05)
    return row


def ended(border: Border, timeout_s: float = 10.0) -> str:
    """The one call that has ended, once its last figures are there."""
    deadline = time.monotonic() + timeout_s
    while not (found := [row["id"] for row in rows(border, "recent")]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (call,) = found
    return str(call)


def nothing_crossed(lab: Lab) -> None:
    """No credentials, no challenge, no word of the carrier's account on the private side or in the log."""
    for text in lab.messages(PRIVATE):
        assert not any(word in text for word in ("Digest ", "nonce=", ACCOUNT, "carrier.example")), text
    assert PASSWORD not in lab.border.process.text
    assert PASSWORD not in lab.border.cdr.read_text()


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_calls_are_answered_for_and_the_nonce_is_used_again(lab: Lab, algorithm: str) -> None:
    carrier = Carrier(lab.namespaces, algorithm=algorithm)
    start(lab)
    phone = lab.callee(PUBLIC, "uas_call_routed", number=PHONE, calls=5)
    lab.caller(PRIVATE, dialled="0301234", calls=5, rate=5).done()
    phone.done()
    lab.finish(refused=5)
    sent = [text for text in lab.messages(PUBLIC) if text.startswith(("INVITE ", "BYE ", "ACK "))]
    challenges = [text for text in lab.messages(PUBLIC) if text.startswith("SIP/2.0 407")]
    assert challenges and len(challenges) <= 5, (
        "the first INVITE is challenged, at most those that came with it too"
    )
    assert any("nc=00000002" in text for text in sent), "the nonce is used again"
    nothing_crossed(lab)
    assert carrier.process.running


def test_a_nonce_that_is_too_old_in_the_middle_of_a_call(lab: Lab) -> None:
    """BYE comes 2.5 s after the INVITE, with a nonce that lives for 1 s: 407 with stale=true."""
    Carrier(lab.namespaces, nonce_s=1)
    start(lab)
    phone = lab.callee(PUBLIC, "uas_call_routed", number=PHONE)
    lab.caller(PRIVATE, dialled="0301234", hold_ms=2500).done()
    phone.done()
    lab.finish(refused=1)
    stale = [text for text in lab.messages(PUBLIC) if text.startswith("SIP/2.0 407") and "stale=true" in text]
    assert stale and any(re.search(r"CSeq: \d+ BYE", text) for text in stale), stale
    nothing_crossed(lab)


def test_a_wrong_password_is_told_in_the_record(lab: Lab) -> None:
    Carrier(lab.namespaces)
    border = start(lab, CREDENTIALS.replace(PASSWORD, "wrong"))
    lab.caller(PRIVATE, "uac_refused", dialled="0301234", status=403).done()
    lab.finish(refused=2)
    call = ended(border)
    assert "answered with credentials" in border.explain(call)
    nothing_crossed(lab)


def test_without_credentials_the_record_says_which_realm(lab: Lab) -> None:
    Carrier(lab.namespaces)
    border = start(lab, "")
    lab.caller(PRIVATE, "uac_refused", dialled="0301234", status=403).done()
    lab.finish(refused=1)
    call = ended(border)
    text = border.explain(call)
    assert "no credentials are configured" in text and "carrier.example" in text, text


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_we_register_are_called_and_leave(lab: Lab, transport: str) -> None:
    carrier = Carrier(lab.namespaces, min_expires_s=90)
    settings = CREDENTIALS + REGISTER
    border = start(lab, settings) if transport == "udp" else start_tcp(lab, settings)
    row = await_state(border, "registered")
    assert row["user"] == USER and 80 < int(row["expires_s"]) <= 90, "423 told us that 60 s are too few"
    (contact,) = carrier.await_contacts(1)
    assert contact.startswith(f"sip:{USER}@{lab.border_at(PUBLIC)}") and ";line=" in contact

    phone = lab.callee(PRIVATE)
    sipp.caller(
        lab.namespaces, PUBLIC, "uac_call", f"{carrier.host}:5060", local=lab.host(PUBLIC, number=PHONE),
        number=USER, port=5062, words=sipp.Words(agent="caller-of-public"), name="via-carrier",
    ).done()  # fmt: skip
    phone.done()
    call = ended(border)
    assert "carrier" in border.explain(call)

    assert border.stop() == 0
    carrier.await_contacts(0, timeout_s=5)
    text = border.process.text
    assert "registered at trunk" in text
    assert PASSWORD not in text


def start_tcp(lab: Lab, settings: str) -> Border:
    text = configuration(lab.namespaces, to_public=[f"sip:{lab.host(PUBLIC)}:5060;transport=tcp"])
    return lab.start(text.replace("carrier: {network: public, ", "carrier: {network: public, " + settings))


def test_a_carrier_that_comes_back_is_registered_at_again(lab: Lab) -> None:
    carrier = Carrier(lab.namespaces)
    border = start(lab, CREDENTIALS + REGISTER.replace("60", "10"))
    await_state(border, "registered")
    carrier.process.stop(15)
    await_state(border, "failed", timeout_s=40)
    again = Carrier(lab.namespaces)
    await_state(border, "registered")
    again.await_contacts(1)
    assert "registration at trunk failed" in border.process.text
