"""STUN messages: the vectors of RFC 5769, aioice as a second opinion, and what is refused."""

import aioice.stun
import pytest

from nat.stun import (
    BINDING,
    FINGERPRINT,
    MAPPED_ADDRESS,
    MESSAGE_INTEGRITY,
    SOFTWARE,
    XOR_MAPPED_ADDRESS,
    Kind,
    Message,
    StunError,
    binding_error,
    binding_request,
    binding_success,
    error_code,
    is_stun,
    mapped_address,
    parse,
)

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

# RFC 5769 s.2.1: a request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY, FINGERPRINT.
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932f"
    "f9b151263b36000600096576746a3a6836765920202000080014"
    "9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
# RFC 5769 s.2.2 and s.2.3: responses with XOR-MAPPED-ADDRESS 192.0.2.1:32853 and
# [2001:db8:1234:5678:11:2233:4455:6677]:32853.
RESPONSE_4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91"
    "f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25"
    "f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def test_the_request_of_rfc_5769() -> None:
    message = parse(REQUEST)
    assert (message.kind, message.method, message.transaction) == (Kind.REQUEST, BINDING, TRANSACTION)
    assert message.get(SOFTWARE) == b"STUN test client"
    assert message.get(FINGERPRINT) is None
    assert is_stun(REQUEST)


@pytest.mark.parametrize(
    ("data", "address"),
    [(RESPONSE_4, "192.0.2.1"), (RESPONSE_6, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_the_responses_of_rfc_5769(data: bytes, address: str) -> None:
    assert mapped_address(parse(data)) == (address, 32853)


@pytest.mark.parametrize("address", [("198.51.100.7", 5060), ("2001:db8::7", 65535), ("203.0.113.1", 0)])
def test_what_we_write_aioice_reads_and_back(address: tuple[str, int]) -> None:
    answer = binding_success(parse(binding_request(TRANSACTION).encode()), address)
    for data in (answer.encode(), answer.encode(fingerprint=True)):
        read = aioice.stun.parse_message(data)
        assert read.attributes["XOR-MAPPED-ADDRESS"] == address
        assert read.message_class == aioice.stun.Class.RESPONSE
        assert mapped_address(parse(data)) == address
    theirs = aioice.stun.Message(
        aioice.stun.Method.BINDING, aioice.stun.Class.RESPONSE, TRANSACTION, {"XOR-MAPPED-ADDRESS": address}
    )
    theirs.add_message_integrity(b"key")
    assert mapped_address(parse(bytes(theirs))) == address


@pytest.mark.parametrize("method", [1, 3, 0x00F, 0x010, 0x07F, 0x080, 0xFFF])
@pytest.mark.parametrize("kind", list(Kind))
def test_class_and_method_share_the_type(kind: Kind, method: int) -> None:
    message = Message(kind, method, TRANSACTION, ((SOFTWARE, b"abcde"),))
    assert parse(message.encode()) == message
    assert parse(message.encode(fingerprint=True)) == message


def test_an_error_has_a_code_and_names_what_was_not_understood() -> None:
    data = binding_error(parse(binding_request(TRANSACTION).encode()), 420, (0x7001, 0x7002)).encode()
    assert error_code(parse(data)) == 420
    assert aioice.stun.parse_message(data).error_code == 420
    assert error_code(Message(Kind.ERROR, BINDING, TRANSACTION)) == 0


def test_only_the_first_of_two_attributes_counts() -> None:
    first, second = (
        binding_success(Message(Kind.REQUEST, BINDING, TRANSACTION), (host, 1)).attributes[0]
        for host in ("192.0.2.1", "192.0.2.2")
    )
    assert mapped_address(Message(Kind.SUCCESS, BINDING, TRANSACTION, (first, second)))[0] == "192.0.2.1"


def test_what_stands_behind_the_integrity_is_left_out() -> None:
    signed = ((MESSAGE_INTEGRITY, bytes(20)), (XOR_MAPPED_ADDRESS, bytes.fromhex("0001a147e112a643")))
    read = parse(Message(Kind.SUCCESS, BINDING, TRANSACTION, signed).encode(fingerprint=True))
    assert read.attributes == signed[:1]


def test_a_server_of_rfc_3489_is_understood() -> None:
    plain = Message(
        Kind.SUCCESS, BINDING, TRANSACTION, ((MAPPED_ADDRESS, bytes.fromhex("00018055c0000201")),)
    )
    assert mapped_address(plain) == ("192.0.2.1", 32853)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        REQUEST[:19],
        b"\x80" + REQUEST[1:],  # RTP
        REQUEST[:4] + b"\0\0\0\0" + REQUEST[8:],  # no cookie: RFC 3489
        REQUEST[:-4],
        REQUEST + b"\0\0\0\0",
        REQUEST[:-1] + b"\0",  # FINGERPRINT
        REQUEST[:2] + b"\x00\x59" + REQUEST[4:] + b"\0",
        Message(Kind.REQUEST, BINDING, TRANSACTION, ((FINGERPRINT, b"\0\0\0\0"), (SOFTWARE, b""))).encode(),
        Message(Kind.REQUEST, BINDING, TRANSACTION, ((SOFTWARE, b""),) * 40).encode(),
        Message(Kind.REQUEST, BINDING, TRANSACTION, ((SOFTWARE, bytes(1300)),)).encode(),
        b"\x00\x01\x00\x04\x21\x12\xa4\x42" + TRANSACTION + b"\x80\x22\xff\xff",
    ],
)  # fmt: skip
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(StunError):
        parse(data)


@pytest.mark.parametrize("value", ["", "0001a147e112a6", "0002a147e112a643", "0001" + "00" * 18])
def test_an_address_of_a_wrong_shape_is_refused(value: str) -> None:
    attributes = ((XOR_MAPPED_ADDRESS, bytes.fromhex(value)),)
    with pytest.raises(StunError):
        mapped_address(Message(Kind.SUCCESS, BINDING, TRANSACTION, attributes))
