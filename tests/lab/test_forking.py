"""Three phones of one user, SIPp each, ring at once: one is picked up, the others stop."""

import hashlib
import re
import select
import socket

import pytest

from tests.lab.border import configuration
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES
from tests.lab.talk import inside, udp
from tests.lab.test_failover import await_cdr

pytestmark = pytest.mark.lab

REALM, PASSWORD = "public.border.example", "wonderland"
PHONES = f"""
phones:
  network: public
  registrar: local
  domain: {REALM}
  users:
    alice: {{password: {PASSWORD}, numbers: ["1000"]}}
  store: null
  keepalive: off
  ring_s: 2
  fork: parallel
"""


def start(lab: Lab, fork: str = "parallel") -> None:
    """A border whose private side calls the phones."""
    text = configuration(lab.namespaces, more=PHONES.replace("parallel", fork))
    lab.start(text.replace("{from: pbx, to: carrier}", "{from: pbx, to: phones}"))


def digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def register(lab: Lab, number: int, q: float) -> None:
    """One phone registers from the address where its SIPp will be (RFC 3261 s.10, s.22.4)."""
    host, border = lab.host(PUBLIC, number=number), (SIDES[PUBLIC].border, 5060)
    sock = inside(lab.namespaces, PUBLIC, lambda: udp(host, 5060))
    try:
        challenge = ask(sock, border, host, 1, q, "")
        found = {name: value for name, value in re.findall(r'(realm|nonce)="([^"]*)"', challenge)}
        assert challenge.startswith("SIP/2.0 401 "), challenge
        ha1, ha2 = digest(f"alice:{found['realm']}:{PASSWORD}"), digest(f"REGISTER:sip:{REALM}")
        response = digest(f"{ha1}:{found['nonce']}:00000001:c0ffee:auth:{ha2}")
        answer = ask(
            sock, border, host, 2, q,
            f'Authorization: Digest username="alice", realm="{found["realm"]}", nonce="{found["nonce"]}", '
            f'uri="sip:{REALM}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee", response="{response}"\r\n',
        )  # fmt: skip
        assert answer.startswith("SIP/2.0 200 "), answer
    finally:
        sock.close()


def ask(
    sock: socket.socket, border: tuple[str, int], host: str, cseq: int, q: float, authorization: str
) -> str:
    """One REGISTER and its answer."""
    sock.sendto(
        f"REGISTER sip:{REALM} SIP/2.0\r\nVia: SIP/2.0/UDP {host};branch=z9hG4bKreg{host}{cseq};rport\r\n"
        f"From: <sip:alice@{REALM}>;tag=reg{host}\r\nTo: <sip:alice@{REALM}>\r\nCall-ID: reg-{host}\r\n"
        f"CSeq: {cseq} REGISTER\r\nContact: <sip:alice@{host};line={host[-2:]}>;q={q:g}\r\nMax-Forwards: 70\r\n"
        f"Expires: 600\r\n{authorization}Content-Length: 0\r\n\r\n".encode(),
        border,
    )
    assert select.select([sock], [], [], 10)[0], "no answer to REGISTER"
    return sock.recv(65535).decode()


def requests(lab: Lab, method: str) -> list[str]:
    """What the border sent to the phones, repetitions left out."""
    sent = [text for text in lab.messages(PUBLIC) if text.startswith(f"{method} ")]
    found = {re.search(r"branch=([^;\s]*)", text)[1]: text for text in sent}  # type: ignore[index]
    return [text for branch, text in found.items() if branch.startswith("z9hG4bK") and "uac" not in branch]


def test_three_phones_ring_at_once_and_one_is_picked_up(lab: Lab) -> None:
    start(lab)
    for number in range(3):
        register(lab, number, 1.0)
    losers = [lab.callee(PUBLIC, "uas_cancelled", number=number) for number in (1, 2)]
    winner = lab.callee(PUBLIC, "uas_call", ring_ms=600, audio=True)
    lab.caller(PRIVATE, audio=True, hold_ms=1500).done()
    winner.done()
    for loser in losers:
        loser.done()
    row = await_cdr(lab.border, 1)
    assert row["outcome"] == "answered"
    assert sorted(target["rule"] for target in row["targets"]) == [
        "answered",
        "answered-elsewhere",
        "answered-elsewhere",
    ]
    lab.finish(refused=2)
    lab.assert_heard()
    invites = requests(lab, "INVITE")
    assert sorted(text.split()[1] for text in invites) == [
        f"sip:alice@{host};line={host[-2:]}" for host in SIDES[PUBLIC].peers
    ]
    cancels = requests(lab, "CANCEL")
    assert len(cancels) == 2
    assert all('Reason: SIP;cause=200;text="Call completed elsewhere"' in text for text in cancels)


def test_the_caller_gives_up_and_three_phones_stop(lab: Lab) -> None:
    start(lab)
    for number in range(3):
        register(lab, number, 1.0)
    phones = [lab.callee(PUBLIC, "uas_cancelled", number=number) for number in range(3)]
    lab.caller(PRIVATE, "uac_cancel_all").done()
    for phone in phones:
        phone.done()
    assert await_cdr(lab.border, 1)["cause"] == "cancel"
    lab.finish(refused=3)


def test_phones_one_after_the_other_by_their_q(lab: Lab) -> None:
    start(lab, "serial")
    for number, q in ((0, 0.3), (1, 0.9), (2, 0.6)):
        register(lab, number, q)
    never = lab.callee(PUBLIC, "uas_cancelled", number=1)
    busy = lab.callee(PUBLIC, "uas_refuse", number=2, status=486)
    last = lab.callee(PUBLIC, "uas_call", number=0)
    lab.caller(PRIVATE).done()
    for phone in (never, busy, last):
        phone.done()
    row = await_cdr(lab.border, 1)
    hosts = SIDES[PUBLIC].peers
    assert [(target["address"].partition(":")[0], target["rule"]) for target in row["targets"]] == [
        (hosts[1], "no-answer"),
        (hosts[2], "peer-rejected"),
        (hosts[0], "answered"),
    ]
    assert 1.9 < row["targets"][0]["duration_s"] < 12, "ring_s, on a machine with other work"
    lab.finish(refused=2)
