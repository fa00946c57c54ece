"""TURN allocations against a server of the test, in virtual time; a real coturn is in tests/lab/test_turn.py."""

import hashlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from nat.allocation import (
    ALLOCATE,
    CHANNEL_BIND,
    CHANNEL_NUMBER,
    CREATE_PERMISSION,
    DATA,
    EVEN_PORT,
    LIFETIME,
    NONCE,
    REALM,
    REFRESH,
    REQUESTED_ADDRESS_FAMILY,
    RESERVATION_TOKEN,
    SEND,
    TRANSMISSIONS,
    XOR_PEER_ADDRESS,
    XOR_RELAYED_ADDRESS,
    Account,
    Allocation,
    State,
)
from nat.stun import (
    ERROR_CODE,
    USERNAME,
    Address,
    Kind,
    Message,
    is_signed,
    parse,
    xor_address,
    xored_address,
)

ACCOUNT = Account("border", "hallelujah")
KEY = hashlib.md5(b"border:example.org:hallelujah").digest()
RELAYED, PEER, OTHER = ("198.51.100.20", 50000), ("203.0.113.5", 40000), ("203.0.113.6", 40002)


def tokens() -> Callable[[int], bytes]:
    numbers: Iterator[int] = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


class Server:
    """Challenges once, and grants what is signed. Everything that it understood is in `asked`."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.asked: list[Message] = []
        self.nonce = b"first"
        self.mute = False
        self.refuse: dict[int, int] = {}

    def take(self, sends: list[bytes], now: float) -> None:
        """Answer until nothing more comes."""
        while sends and not self.mute:
            sends = [again for data in sends for again in self._answer(data, now)]

    def _answer(self, data: bytes, now: float) -> list[bytes]:
        request = parse(data)
        if request.kind is Kind.INDICATION:
            self.asked.append(request)
            return []
        if request.get(NONCE) != self.nonce:
            code = 401 if request.get(NONCE) is None else 438
            challenge = (
                (ERROR_CODE, bytes((0, 0, 4, code - 400))),
                (REALM, b"example.org"),
                (NONCE, self.nonce),
            )
            answer = Message(Kind.ERROR, request.method, request.transaction, challenge)
            return self.allocation.receive(answer.encode(), now)
        assert is_signed(data, KEY) and request.get(USERNAME) == b"border"
        self.asked.append(request)
        code = self.refuse.get(request.method, 0)
        if code:
            error = ((ERROR_CODE, bytes((0, 0, code // 100, code % 100)) + b"because"),)
            answer = Message(Kind.ERROR, request.method, request.transaction, error)
            return self.allocation.receive(answer.encode(key=KEY), now)
        return self.allocation.receive(self.granted(request).encode(key=KEY), now)

    @staticmethod
    def granted(request: Message) -> Message:
        """A success response."""
        attributes: tuple[tuple[int, bytes], ...] = ()
        if request.method == ALLOCATE:
            attributes = (
                (XOR_RELAYED_ADDRESS, xor_address(RELAYED, request.transaction)),
                (LIFETIME, (600).to_bytes(4, "big")),
            )
            if request.get(EVEN_PORT):
                attributes += ((RESERVATION_TOKEN, b"the-next"),)
        elif request.method == REFRESH:
            attributes = ((LIFETIME, request.get(LIFETIME) or b""),)
        return Message(Kind.SUCCESS, request.method, request.transaction, attributes)

    def methods(self) -> list[int]:
        """What it was asked, and forget it."""
        found = [request.method for request in self.asked]
        self.asked.clear()
        return found


def opened(reserve: bool = False, reserved: bytes | None = None) -> tuple[Allocation, Server]:
    allocation = Allocation(ACCOUNT, tokens(), reserve, reserved)
    server = Server(allocation)
    server.take(allocation.begin(0.0), 0.0)
    assert (allocation.state, allocation.relayed) == (State.OPEN, RELAYED)
    return allocation, server


def run(allocation: Allocation, server: Server, end: float) -> None:
    while (due := allocation.next_timer()) is not None and due <= end:
        server.take(allocation.handle_timer(due), due)


def peers_of(requests: list[Message]) -> list[Address | None]:
    return [xored_address(request, XOR_PEER_ADDRESS) for request in requests]


def test_an_address_of_ipv6_has_to_be_asked_for() -> None:
    """RFC 8656 s.7.1; what claims a reserved port says nothing of it, since the reservation has its family."""
    for ipv6, reserved, family in ((False, None, None), (True, None, b"\2\0\0\0"), (True, b"12345678", None)):
        allocation = Allocation(ACCOUNT, tokens(), reserve=reserved is None, reserved=reserved, ipv6=ipv6)
        (first,) = allocation.begin(0.0)
        assert parse(first).get(REQUESTED_ADDRESS_FAMILY) == family


def test_an_even_port_reserves_the_next_one_and_another_allocation_claims_it() -> None:
    allocation, server = opened(reserve=True)
    assert server.asked[0].get(EVEN_PORT) == b"\x80"
    assert allocation.reservation == b"the-next"
    _, second = opened(reserved=allocation.reservation)
    assert second.asked[0].get(RESERVATION_TOKEN) == b"the-next"
    assert second.asked[0].get(EVEN_PORT) is None


def test_media_goes_by_indications_until_there_is_a_channel() -> None:
    allocation, server = opened()
    sends = allocation.want([PEER[0]], [PEER], 1.0)
    early = parse(allocation.wrap(b"hello", PEER))
    assert (early.kind, early.method, early.get(DATA)) == (Kind.INDICATION, SEND, b"hello")
    assert xored_address(early, XOR_PEER_ADDRESS) == PEER
    server.take(sends, 1.0)
    assert server.methods()[1:] == [CHANNEL_BIND]
    assert allocation.wrap(b"hello", PEER) == b"\x40\x00\x00\x05hello"
    assert allocation.unwrap(b"\x40\x00\x00\x05hello\0\0\0") == (PEER, b"hello")


def test_what_comes_from_a_peer_without_a_channel_is_an_indication() -> None:
    allocation, server = opened()
    server.take(allocation.want([OTHER[0]], [], 1.0), 1.0)
    permission = server.asked[-1]
    assert permission.method == CREATE_PERMISSION and xored_address(permission, XOR_PEER_ADDRESS) == (
        OTHER[0],
        0,
    )
    transaction = bytes(12)
    attributes = ((XOR_PEER_ADDRESS, xor_address(OTHER, transaction)), (DATA, bytes(1400)))
    data = Message(Kind.INDICATION, 7, transaction, attributes).encode()
    assert allocation.unwrap(data) == (OTHER, bytes(1400))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40",
        b"\x40\x00\x00\x09short",
        b"\x40\x77\x00\x01x",  # no such channel
        b"\x00\x17" + bytes(30),
        Message(Kind.INDICATION, 7, bytes(12), ((DATA, b"x"),)).encode(),
        Message(Kind.INDICATION, 7, bytes(12), ((XOR_PEER_ADDRESS, b"\0\1\0\0\0\0\0\0"),)).encode(),
        b"\x80\x00" + bytes(40),
    ],
)
def test_what_is_no_media_is_none(data: bytes) -> None:
    allocation, _ = opened()
    assert allocation.unwrap(data) is None


def test_channels_permissions_and_the_allocation_are_renewed() -> None:
    allocation, server = opened()
    server.take(allocation.want([PEER[0], OTHER[0]], [PEER], 1.0), 1.0)
    server.methods()
    run(allocation, server, 245.0)
    done = [method for method in server.methods() if method != REFRESH]
    assert sorted(done) == sorted([CHANNEL_BIND, CREATE_PERMISSION])
    run(allocation, server, 3600.0)
    found = server.methods()
    # RFC 8656: a channel lives for 10 minutes, a permission for 5; with NAT before us 30 s without a packet are long.
    assert found.count(CHANNEL_BIND) >= 13 and found.count(REFRESH) >= 150
    assert allocation.state is State.OPEN


def test_who_is_not_wanted_any_more_is_not_renewed() -> None:
    allocation, server = opened()
    server.take(allocation.want([PEER[0], OTHER[0]], [PEER], 1.0), 1.0)
    server.take(allocation.want([], [], 2.0), 2.0)
    server.methods()
    run(allocation, server, 280.0)
    assert set(server.methods()) == {REFRESH}
    # The number of the channel is not used for another peer while the server may take it for this one.
    server.take(allocation.want([OTHER[0]], [OTHER], 281.0), 281.0)
    assert allocation.wrap(b"", OTHER)[:2] == b"\x40\x01"


def test_a_stale_nonce_is_replaced() -> None:
    allocation, server = opened()
    server.nonce = b"second"
    server.take(allocation.want([PEER[0]], [PEER], 1.0), 1.0)
    assert server.asked[-1].get(NONCE) == b"second"
    assert allocation.wrap(b"", PEER)[0] == 0x40


def test_a_wrong_password_ends_it_with_the_reason() -> None:
    allocation = Allocation(ACCOUNT, tokens())
    sends, asked = allocation.begin(0.0), 0
    while sends:
        (data,), asked = sends, asked + 1
        refusal = ((ERROR_CODE, b"\0\0\4\1Unauthorized"), (REALM, b"example.org"), (NONCE, b"n"))
        answer = Message(Kind.ERROR, ALLOCATE, parse(data).transaction, refusal)
        sends = allocation.receive(answer.encode(), 0.1)
    assert (allocation.state, allocation.why, asked) == (State.GONE, "401 Unauthorized", 2)


@pytest.mark.parametrize(("method", "state"), [(ALLOCATE, State.GONE), (CHANNEL_BIND, State.OPEN)])
def test_a_refusal(method: int, state: State) -> None:
    allocation = Allocation(ACCOUNT, tokens())
    server = Server(allocation)
    server.refuse[method] = 508 if method == ALLOCATE else 403
    server.take(allocation.begin(0.0), 0.0)
    server.take(allocation.want([PEER[0]], [PEER], 1.0), 1.0)
    assert allocation.state is state
    if state is State.GONE:
        assert allocation.why == "508 because"
    else:
        assert parse(allocation.wrap(b"x", PEER)).method == SEND


def test_a_silent_server_is_asked_seven_times() -> None:
    allocation = Allocation(ACCOUNT, tokens())
    sent = len(allocation.begin(0.0))
    while (due := allocation.next_timer()) is not None:
        sent += len(allocation.handle_timer(due))
    assert (sent, allocation.state, allocation.why) == (
        TRANSMISSIONS,
        State.GONE,
        "the server does not answer",
    )


@pytest.mark.parametrize("method", [REFRESH, CHANNEL_BIND])
def test_a_server_that_has_forgotten_us_ends_it(method: int) -> None:
    allocation, server = opened()
    server.refuse[method] = 437
    server.take(allocation.want([PEER[0]], [PEER], 1.0), 1.0)
    run(allocation, server, 21.0)
    assert (allocation.state, allocation.why) == (State.GONE, "437 because")


def test_an_answer_that_is_not_signed_changes_nothing() -> None:
    allocation, server = opened()
    (data,) = allocation.want([PEER[0]], [PEER], 1.0)
    forged = Server.granted(parse(data))
    allocation.receive(forged.encode(), 1.1)
    allocation.receive(forged.encode(key=bytes(16)), 1.1)
    assert parse(allocation.wrap(b"x", PEER)).method == SEND
    allocation.receive(forged.encode(key=KEY), 1.2)
    assert allocation.wrap(b"x", PEER)[0] == 0x40
    # Nor does an answer to what was never asked.
    other = Message(Kind.SUCCESS, REFRESH, bytes(12), ((LIFETIME, bytes(4)),))
    assert allocation.receive(other.encode(key=KEY), 1.3) == []
    assert server.methods() and allocation.state is State.OPEN


def test_closing_gives_the_address_back() -> None:
    allocation, server = opened()
    server.methods()
    server.take(allocation.close(1.0), 1.0)
    assert server.asked[0].get(LIFETIME) == bytes(4)
    assert (allocation.state, allocation.next_timer()) == (State.GONE, None)
    assert allocation.close(2.0) == []


def test_channel_numbers_go_round() -> None:
    allocation, server = opened()
    seen = set()
    for number in range(5000):
        peer = ("203.0.113.5", 10_000 + number)
        server.take(allocation.want([peer[0]], [peer], 1.0), 1.0)
        request = server.asked[-1]
        seen.add(int.from_bytes((request.get(CHANNEL_NUMBER) or b"")[:2], "big"))
        server.asked.clear()
    assert seen == set(range(0x4000, 0x5000))
