"""Fuzz target of the SIP parser, framer, typed fields, refusal and topology.

Invariant: whatever the bytes, `parse`, `Framer.feed` and the typed properties raise nothing but ParseError,
`refuse` and the carry functions raise nothing at all; a message that was parsed encodes to bytes that parse to the
same; no input of at most 64 KiB takes longer than `DEADLINE_S`; the framer holds no more than its limits.

`python -m tests.fuzz.fuzz_sip SECONDS [SEED]` runs on its own and prints the input that broke it.
"""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from signaling.errors import ParseError
from signaling.guard import Guard, Secrets, hosts_of
from signaling.headers import parse_name_addr
from signaling.identity import carry_identity
from signaling.message import Message, Request, Response
from signaling.parser import DEFAULT_LIMITS, Framer, KeepAlive, parse, refuse
from signaling.site import Site
from signaling.topology import carry_body, carry_request, carry_response, render
from signaling.uri import parse_uri

DEADLINE_S = 1.0
"""Far above what any input needs (some ms), far below what a quadratic one takes at 64 KiB."""
VECTORS = Path(__file__).parent.parent / "vectors" / "sip"
SITE = Site("ours.example", ("203.0.113.9", 5060), "udp")
PIECES = (
    b"\r\n", b"\r\n ", b"\r", b"\n", b"\x00", b'"', b"\\", b"<", b">", b"@", b";", b",", b":", b"=", b"?", b"%",
    b"[", b"]",
    b" ", b"\t", b"/", b"SIP/2.0", b"Via: ", b"v:", b"l: 5\r\n", b"Content-Length: 0\r\n", b";tag=", b";branch=z9hG4bK",
    b"sip:", b"tel:+1", b"sip:a@[::1]", b"99999999999", b"-1", b"\xff\xfe", b"\xc3\xa4", b"\xe2\x80\xa8", b"\xc2\xb2",
    b"P-Asserted-Identity: ", b"History-Info: <sip:a@b?Reason=SIP%3Bcause%3D302>;index=1\r\n", b"Reason: Q.850;cause=",
    b"Warning: 399 a ", b"Subject: ", b"Contact: *", b"\r\n\r\n",
)  # fmt: skip


def corpus() -> list[bytes]:
    """The vectors, valid and not."""
    return [path.read_bytes() for path in sorted(VECTORS.glob("*valid/*.sip"))]


def mutate(seeds: list[bytes], chance: random.Random) -> bytes:
    """A seed with a few things inserted, removed, repeated or exchanged, sometimes a large one."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data[at:at] = chance.choice(PIECES)
            case 1:
                del data[at : at + chance.choice((1, 1, 4, 40))]
            case 2:
                data[at:at] = chance.choice(PIECES) * chance.choice((2, 10, 100, 8000))
            case 3:
                data[at : at + 1] = bytes((chance.randrange(256),))
            case 4:
                other = chance.choice(seeds)
                begin = chance.randrange(len(other))
                data[at:at] = other[begin : begin + chance.randrange(200)]
            case _:
                lines = bytes(data).split(b"\r\n")
                chance.shuffle(lines)
                data = bytearray(b"\r\n".join(lines))
    return bytes(data[:70000])


def pathological() -> Iterator[bytes]:
    """Inputs that hurt parsers which look back: the same piece as often as it fits, in every place of a value."""
    head = (
        b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n"
        b"Call-ID: x\r\nCSeq: 1 INVITE\r\n"
    )
    names = (b"Contact", b"Via", b"Subject", b"P-Asserted-Identity", b"History-Info", b"Reason", b"User-to-User",
             b"Alert-Info", b"Route", b"Accept-Language", b"Privacy", b"X")  # fmt: skip
    for piece in PIECES:
        if piece in (b"\r\n", b"\r\n\r\n"):
            continue
        for name in names:
            yield head + name + b": " + piece * (8000 // len(piece)) + b"\r\n\r\n"
        yield head + b"Subject: x\r\n\r\n" + piece * (60000 // len(piece))
        yield piece * (65535 // len(piece))


def check(data: bytes) -> None:
    """Raise AssertionError, or what should not have come out, if the invariant does not hold for `data`."""
    begin = time.process_time()
    try:
        message = parse(data)
    except ParseError:
        refuse(data, 400, "Bad Request")
    else:
        check_message(message)
    check_stream(data)
    assert time.process_time() - begin < DEADLINE_S, "too slow"


def check_message(message: Request | Response) -> None:
    """The invariant for what was parsed."""
    encoded = message.encode()
    again = parse(encoded)
    assert again == message
    assert again.encode() == encoded
    for name in (
        "via",
        "from_",
        "to",
        "call_id",
        "cseq",
        "contacts",
        "routes",
        "record_routes",
        "max_forwards",
        "content_type",
    ):
        typed(message, name)
    carried = carry_request(message) if isinstance(message, Request) else carry_response(message)
    for _, value in render(carried, SITE):
        assert "\r" not in value
        assert "\n" not in value
    carry_body(message.content_type or "text/plain", message.body, hosts_of(message))
    secrets = Secrets()
    guard = Guard()
    guard.learn(secrets, message)
    guard.scan(secrets, encoded)
    if isinstance(message, Request):
        refuse(encoded, 503, "Service Unavailable")


def typed(message: Message, name: str) -> None:
    """Read one typed property and what hangs on it."""
    try:
        value = getattr(message, name)
        for address in value if isinstance(value, list) else ():
            assert parse_name_addr(str(address)) == address
            parse_uri(address.uri_text)
        if name in ("from_", "to"):
            carry_identity(value).render(SITE)
    except ParseError:
        pass


def check_stream(data: bytes) -> None:
    """The invariant for the same bytes as a stream, cut in pieces."""
    framer = Framer()
    try:
        for at in range(0, len(data), 4096):
            for item in framer.feed(data[at : at + 4096]):
                assert isinstance(item, KeepAlive) or len(item) <= DEFAULT_LIMITS.max_message_bytes
            assert len(framer.rest) <= DEFAULT_LIMITS.max_message_bytes + 4096
    except ParseError:
        assert framer.error is not None


def main() -> int:
    """Fuzz for some seconds; 1 when the invariant broke."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() & 0xFFFFFFFF
    chance, seeds, count = random.Random(seed), corpus(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(seeds, chance)
        count += 1
        try:
            check(data)
        except Exception as error:  # the point of the program
            print(f"seed {seed}, input {count}: {error!r}\n{data!r}")
            return 1
    print(f"seed {seed}: {count} inputs, the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
