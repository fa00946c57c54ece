"""STUN messages (RFC 8489): what Binding needs of the codec, bounded, and nothing that a stranger could make dear.

    parse(bytes) -> Message          raises StunError alone
    Message.encode() -> bytes
    mapped_address(Message)          what a server says that it sees
    binding_request, binding_success the two messages of a Binding transaction

A Binding transaction that only asks for an address needs no authentication; what TURN needs of it is here too.
"""

import hmac
import ipaddress
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from nat.address import parse as parse_address

Address = tuple[str, int]

COOKIE = 0x2112A442
HEADER_BYTES = 20
TRANSACTION_BYTES = 12
MAX_BYTES = 1280
"""Longest message that is read; RFC 8489 s.6.1 asks senders to stay below the path MTU."""
MAX_ATTRIBUTES = 32
FINGERPRINT_XOR = 0x5354554E

BINDING = 0x001

# RFC 8489 s.18.3, and CHANGE-REQUEST of RFC 5780 s.7.2, which old phones send.
MAPPED_ADDRESS = 0x0001
CHANGE_REQUEST = 0x0003
USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
MESSAGE_INTEGRITY_SHA256 = 0x001C
XOR_MAPPED_ADDRESS = 0x0020
SOFTWARE = 0x8022
FINGERPRINT = 0x8028

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_INTEGRITY_BYTES = 24
_INTEGRITY = frozenset({MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256})


class StunError(ValueError):
    """Bytes that are no STUN message, or one that does not hold what it has to."""


class Kind(IntEnum):
    """The class of a message, as its bits stand in the type (RFC 8489 s.5)."""

    REQUEST = 0x000
    INDICATION = 0x010
    SUCCESS = 0x100
    ERROR = 0x110


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `attributes` are (type, value) in their order, without padding and without FINGERPRINT."""

    kind: Kind
    method: int
    transaction: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()

    def get(self, kind: int) -> bytes | None:
        """The first attribute of that type; RFC 8489 s.14 lets only that one count."""
        return next((value for key, value in self.attributes if key == kind), None)

    def encode(self, fingerprint: bool = False, key: bytes | None = None) -> bytes:
        """The bytes; with a `key` MESSAGE-INTEGRITY (s.14.5) is at their end, else FINGERPRINT (s.14.7) if wanted."""
        body = b"".join(
            _ATTRIBUTE.pack(key, len(value)) + value + bytes(-len(value) % 4)
            for key, value in self.attributes
        )
        kind = _message_type(self.kind, self.method)
        if key is not None:
            data = _HEADER.pack(kind, len(body) + _INTEGRITY_BYTES, COOKIE, self.transaction) + body
            return data + _ATTRIBUTE.pack(MESSAGE_INTEGRITY, 20) + hmac.digest(key, data, "sha1")
        if not fingerprint:
            return _HEADER.pack(kind, len(body), COOKIE, self.transaction) + body
        data = _HEADER.pack(kind, len(body) + 8, COOKIE, self.transaction) + body
        return data + _ATTRIBUTE.pack(FINGERPRINT, 4) + _fingerprint(data)


def is_stun(data: bytes) -> bool:
    """Whether a datagram on a port with other protocols is meant as STUN (RFC 7983 s.7, RFC 8489 s.5)."""
    return len(data) >= HEADER_BYTES and data[0] < 4 and data[4:8] == b"\x21\x12\xa4\x42"


def is_signed(data: bytes, key: bytes) -> bool:
    """Whether a message that parses has a MESSAGE-INTEGRITY of that key (RFC 8489 s.14.5)."""
    position = HEADER_BYTES
    while position + 4 <= len(data):
        kind, size = _ATTRIBUTE.unpack_from(data, position)
        if kind == MESSAGE_INTEGRITY:
            length = position - HEADER_BYTES + _INTEGRITY_BYTES
            signed = data[:2] + length.to_bytes(2, "big") + data[4:position]
            value = data[position + 4 : position + 4 + size]
            return hmac.compare_digest(value, hmac.digest(key, signed, "sha1"))
        position += 4 + size + -size % 4
    return False


def parse(data: bytes, max_bytes: int = MAX_BYTES) -> Message:
    """The message that `data` is, the whole of it. Raises StunError.

    A FINGERPRINT that is there has to be right and the last. What comes behind an integrity attribute is left out
    (RFC 8489 s.14.5, s.14.6): nobody has signed it.
    """
    if not HEADER_BYTES <= len(data) <= max_bytes:
        raise StunError(f"{len(data)} bytes are no STUN message")
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind & 0xC000 or cookie != COOKIE:
        raise StunError("no STUN header")
    if length % 4 or length != len(data) - HEADER_BYTES:
        raise StunError(f"length {length} in a message of {len(data)} bytes")
    attributes: list[tuple[int, bytes]] = []
    position, signed = HEADER_BYTES, False
    while position < len(data):
        key, size = _ATTRIBUTE.unpack_from(data, position)
        value = data[position + 4 : position + 4 + size]
        if len(value) != size:
            raise StunError(f"attribute 0x{key:04x} ends beyond the message")
        end = position + 4 + size + -size % 4
        if key == FINGERPRINT:
            if end != len(data) or value != _fingerprint(data[:position]):
                raise StunError("FINGERPRINT is wrong")
        elif not signed or key in _INTEGRITY:
            if len(attributes) >= MAX_ATTRIBUTES:
                raise StunError(f"more than {MAX_ATTRIBUTES} attributes")
            attributes.append((key, value))
            signed = signed or key in _INTEGRITY
        position = end
    return Message(Kind(kind & 0x0110), _method(kind), transaction, tuple(attributes))


def binding_request(transaction: bytes, padding: int = 0) -> Message:
    """A Binding request. SOFTWARE makes it `padding` bytes longer, since some servers (ours is one) answer only
    what is not shorter than their answer."""
    attributes = ((SOFTWARE, b" " * (padding - 4)),) if padding > 4 else ()
    return Message(Kind.REQUEST, BINDING, transaction, attributes)


def binding_success(request: Message, seen: Address) -> Message:
    """The answer that tells where a request came from."""
    return Message(
        Kind.SUCCESS,
        request.method,
        request.transaction,
        ((XOR_MAPPED_ADDRESS, xor_address(seen, request.transaction)),),
    )


def binding_error(request: Message, code: int, unknown: tuple[int, ...] = ()) -> Message:
    """A refusal without a reason phrase; `unknown` are the attributes that a 420 names (RFC 8489 s.14.8, s.14.9)."""
    attributes: list[tuple[int, bytes]] = [(ERROR_CODE, bytes((0, 0, code // 100, code % 100)))]
    if unknown:
        attributes.append((UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(unknown)}H", *unknown)))
    return Message(Kind.ERROR, request.method, request.transaction, tuple(attributes))


def mapped_address(message: Message) -> Address:
    """What a success response says that the server saw. Raises StunError.

    MAPPED-ADDRESS alone comes from servers of RFC 3489; a router may have rewritten the address in it.
    """
    found = xored_address(message, XOR_MAPPED_ADDRESS)
    if found is not None:
        return found
    value = message.get(MAPPED_ADDRESS)
    if value is not None:
        return _address(value, None)
    raise StunError("no XOR-MAPPED-ADDRESS")


def xored_address(message: Message, kind: int) -> Address | None:
    """The address in an attribute of the form of XOR-MAPPED-ADDRESS, None without it. Raises StunError."""
    value = message.get(kind)
    return None if value is None else _address(value, message.transaction)


def error_code(message: Message) -> int:
    """The code of an error response, 0 when there is none that can be read (RFC 8489 s.14.8)."""
    value = message.get(ERROR_CODE) or b""
    return value[2] % 8 * 100 + value[3] if len(value) >= 4 else 0


def xor_address(address: Address, transaction: bytes) -> bytes:
    """The value of XOR-MAPPED-ADDRESS (RFC 8489 s.14.2). Raises StunError for what is no address."""
    found = parse_address(address[0])
    if found is None or not 0 <= address[1] <= 65535:
        raise StunError(f"{address[0]} is no address")
    packed = found.packed
    port = address[1] ^ (COOKIE >> 16)
    return struct.pack("!xBH", 1 if len(packed) == 4 else 2, port) + _xor(packed, transaction)


def unknown_required(message: Message, known: frozenset[int]) -> tuple[int, ...]:
    """The attributes that have to be understood (0x0000-0x7FFF, RFC 8489 s.14) and are not in `known`."""
    return tuple(key for key, _ in message.attributes if key < 0x8000 and key not in known)


def _address(value: bytes, transaction: bytes | None) -> Address:
    if len(value) not in {8, 20} or value[1] != (1 if len(value) == 8 else 2):
        raise StunError("the address has a wrong family or length")
    port = int.from_bytes(value[2:4], "big")
    packed = value[4:]
    if transaction is not None:
        port ^= COOKIE >> 16
        packed = _xor(packed, transaction)
    return str(ipaddress.ip_address(packed)), port


def _xor(packed: bytes, transaction: bytes) -> bytes:
    pad = (COOKIE.to_bytes(4, "big") + transaction)[: len(packed)]
    return (int.from_bytes(packed, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(packed), "big")


def _fingerprint(data: bytes) -> bytes:
    return (zlib.crc32(data) ^ FINGERPRINT_XOR).to_bytes(4, "big")


def _message_type(kind: Kind, method: int) -> int:
    # RFC 8489 s.5, figure 3: the two bits of the class stand between those of the method.
    return kind | (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2


def _method(kind: int) -> int:
    return (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2
