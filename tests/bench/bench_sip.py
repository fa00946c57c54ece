"""What a SIP message costs in CPU: run it as `python -m tests.bench.bench_sip`.

Each row is the wall time of one operation in microseconds, the best of several rounds, beside its target.
"""

import time
from collections.abc import Callable

from signaling.guard import Guard, Secrets
from signaling.identity import carry_identity
from signaling.message import Request, respond
from signaling.parser import Framer, parse, refuse
from signaling.site import Site
from signaling.topology import carry_request, render

SDP = (
    "v=0\r\no=- 3847 3847 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n"
    "m=audio 40376 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n"
)
INVITE = (
    "INVITE sip:+15551234567@203.0.113.10:5060;user=phone SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 198.51.100.20:5060;rport;branch=z9hG4bK-524287-1---7a3c91b2d4e5\r\n"
    "Max-Forwards: 70\r\n"
    "Contact: <sip:alice@198.51.100.20:5060;transport=udp>\r\n"
    "To: <sip:+15551234567@203.0.113.10>\r\n"
    'From: "Alice Example" <sip:alice@example.com>;tag=9fxced76sl\r\n'
    "Call-ID: 3848276298220188511@198.51.100.20\r\n"
    "CSeq: 1 INVITE\r\n"
    "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, MESSAGE, NOTIFY\r\n"
    "Supported: replaces, timer\r\n"
    "User-Agent: ExamplePhone/2.1.4\r\n"
    "Session-Expires: 1800\r\n"
    "Content-Type: application/sdp\r\n"
    f"Content-Length: {len(SDP)}\r\n\r\n{SDP}"
).encode()
SITE = Site("ours.example", ("203.0.113.9", 5060), "udp")
ROUNDS = 7
SIZE = 2000


def typed() -> object:
    """Parse and read what every layer reads."""
    request = parse(INVITE)
    return request.via, request.from_, request.to, request.cseq, request.call_id, request.contacts


def fresh() -> bytes:
    """A new INVITE of 12 header fields (Content-Length is the twelfth) as bytes."""
    request = Request(
        "INVITE",
        "sip:+15551234567@192.0.2.20:5060",
        [
            ("Max-Forwards", "69"),
            ("From", '"Alice Example" <sip:alice@ours.example>;tag=5f0a61c2'),
            ("To", "<sip:+15551234567@192.0.2.20>"),
            ("Call-ID", "0a52b1f7c3d94e66"),
            ("CSeq", "1 INVITE"),
            ("Contact", "<sip:sbc@203.0.113.9:5060>"),
            ("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, MESSAGE, NOTIFY"),
            ("Supported", "timer"),
            ("Session-Expires", "1800"),
            ("Content-Type", "application/sdp"),
        ],
        SDP.encode(),
    )
    request.prepend("Via", "SIP/2.0/UDP 203.0.113.9:5060;rport;branch=z9hG4bK4a2f19d8e07b")
    return request.encode()


def cost_us(operation: Callable[[], object]) -> float:
    """Microseconds of one operation."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(SIZE):
            operation()
        best = min(best, time.perf_counter() - begin)
    return best / SIZE * 1e6


def main() -> None:
    """Print the table."""
    invite = parse(INVITE)
    assert isinstance(invite, Request)
    guard, secrets = Guard(["203.0.113.10"]), Secrets()
    guard.learn(secrets, invite)
    outgoing, carried = fresh(), carry_request(invite)
    rows: list[tuple[str, Callable[[], object], str]] = [
        (f"parse a {len(INVITE)} byte INVITE", lambda: parse(INVITE), "15"),
        ("parse, then via, from, to, cseq, call_id, contacts", typed, "35"),
        ("build and encode an INVITE of 12 fields", fresh, "10"),
        ("encode a parsed INVITE", invite.encode, ""),
        ("respond and encode", lambda: respond(invite, 180, "Ringing", "x").encode(), ""),
        ("frame on a stream", lambda: Framer().feed(INVITE), ""),
        ("refuse unparsed", lambda: refuse(INVITE, 503, "Service Unavailable"), ""),
        ("topology: identity", lambda: carry_identity(invite.from_).render(SITE), ""),
        ("topology: carry and render", lambda: render(carry_request(invite), SITE), ""),
        ("topology: render", lambda: render(carried, SITE), ""),
        ("guard: learn from a message", lambda: guard.learn(secrets, invite), ""),
        (f"guard: scan for {len(secrets.lasting)} secrets", lambda: guard.scan(secrets, outgoing), ""),
    ]
    print("| operation | us | target |\n| --- | --- | --- |")
    for name, operation, target in rows:
        print(f"| {name} | {cost_us(operation):.1f} | {target and '<= ' + target} |")


if __name__ == "__main__":
    main()
