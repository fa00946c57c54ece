"""Fuzz target of STUN, client and server.

Invariant: whatever the bytes, `parse` raises nothing but StunError, and what parses survives writing and parsing;
what is a plain message to aioice too, says the same there; `BindingServer` never answers with more than it was sent,
and only what parses; `BindingClient` takes no address that it was not sent by the server that it asked, and a search
ends whatever comes; an `Allocation` opens only by an answer that has an address, and whatever comes it raises nothing.

`python -m tests.fuzz.fuzz_stun SECONDS [SEED]` runs on its own and prints the input that broke it.
"""

import random
import struct
import sys
import time

import aioice.stun

from nat.allocation import ALLOCATE, NONCE, REALM, XOR_RELAYED_ADDRESS, Account, Allocation
from nat.allocation import State as AllocationState
from nat.binding import BindingClient, BindingServer, State
from nat.stun import (
    ERROR_CODE,
    Kind,
    Message,
    StunError,
    binding_error,
    binding_success,
    is_stun,
    mapped_address,
    parse,
    xor_address,
)

OURS, SERVER, STRANGER = ("203.0.113.7", 40000), ("192.0.2.1", 3478), ("192.0.2.9", 3478)
SENDERS = (OURS, SERVER, STRANGER, ("2001:db8::1", 1), ("0.0.0.0", 0), ("224.0.0.1", 9))
TRANSACTION = bytes(range(12))
REQUEST = Message(
    Kind.REQUEST, 1, TRANSACTION, ((0x8022, b"software"), (0x0003, bytes(4)), (0x8030, bytes(24)))
)
SEEDS = (
    REQUEST.encode(),
    REQUEST.encode(fingerprint=True),
    binding_success(REQUEST, OURS).encode(fingerprint=True),
    binding_success(REQUEST, ("2001:db8::1", 5060)).encode(),
    binding_error(REQUEST, 420, (1, 2, 3)).encode(),
    Message(
        Kind.SUCCESS, ALLOCATE, TRANSACTION, ((XOR_RELAYED_ADDRESS, xor_address(OURS, TRANSACTION)),)
    ).encode(),
    Message(
        Kind.ERROR, ALLOCATE, TRANSACTION, ((ERROR_CODE, b"\0\0\4\1no"), (REALM, b"r"), (NONCE, b"n"))
    ).encode(),
    Message(Kind.REQUEST, 1, TRANSACTION, ((6, b"a:b"), (0x25, b""), (8, bytes(20)))).encode(
        fingerprint=True
    ),
)
PIECES = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\x80\x28\0\4",
    b"\0\x20\0\x08",
    b"\0\1\0\x08",
    b"\x21\x12\xa4\x42",
    bytes(64),
)


def mutate(chance: random.Random) -> bytes:
    """A seed with a few things inserted, removed or exchanged; mostly with a length that fits again."""
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(PIECES)
            case 1:
                del data[at : at + chance.choice((1, 4, 8))]
            case 2 if data:
                data[at % len(data)] = chance.randrange(256)
            case _:
                other = chance.choice(SEEDS)
                begin = chance.randrange(len(other))
                data[at:at] = other[begin : begin + chance.randrange(40)]
    if len(data) >= 20 and chance.random() < 0.8:
        struct.pack_into("!H", data, 2, (len(data) - 20) & 0xFFFC)
        del data[20 + ((len(data) - 20) & 0xFFFC) :]
    return bytes(data)


def check(data: bytes, sender: tuple[str, int] = OURS) -> bool:
    """The invariant for one datagram; returns whether it is a message."""
    message = _parsed(data)
    if message is not None:
        assert is_stun(data) == (data[0] < 4)
        assert _parsed(message.encode()) == message == _parsed(message.encode(fingerprint=True))
        _compare(data, message)
    answer = BindingServer().receive(data, sender, 0.0)
    if answer is not None:
        assert message is not None and message.kind is Kind.REQUEST
        assert len(answer) <= len(data)
        parse(answer)
    _ask(data, sender)
    _allocate(data)
    return message is not None


def _parsed(data: bytes) -> Message | None:
    try:
        return parse(data)
    except StunError:
        return None


def _compare(data: bytes, message: Message) -> None:
    try:
        other = aioice.stun.parse_message(data)
    except (ValueError, struct.error):
        return  # it knows fewer methods, and looks into attributes that are nothing to us
    assert (int(other.message_method), int(other.message_class)) == (message.method, message.kind.value)
    seen = other.attributes.get("XOR-MAPPED-ADDRESS")
    # Of two it takes the last.
    if seen is not None and [key for key, _ in message.attributes].count(0x20) == 1:
        assert mapped_address(message) == seen


def _ask(data: bytes, sender: tuple[str, int]) -> None:
    asking = BindingClient((SERVER, STRANGER), lambda size: TRANSACTION[:size])
    asking.begin(0.0)
    asking.receive(data, sender, 0.1)
    asking.receive(data, SERVER, 0.2)
    if asking.mapped is not None:
        assert mapped_address(parse(data)) == asking.mapped
    due, wakings = asking.next_timer(), 0
    while due is not None and wakings < 100:
        asking.handle_timer(due)
        due, wakings = asking.next_timer(), wakings + 1
    assert asking.state is not State.ASKING


def _allocate(data: bytes) -> None:
    allocation = Allocation(Account("u", "p"), lambda size: TRANSACTION[:size])
    allocation.begin(0.0)
    allocation.unwrap(data)
    sends = allocation.receive(data, 0.1)
    assert len(sends) <= 1
    assert (allocation.state is AllocationState.OPEN) == (allocation.relayed is not None)
    allocation.receive(data, 0.2)
    allocation.want([OURS[0]], [OURS], 0.3)
    allocation.receive(data, 0.4)
    due, wakings = allocation.next_timer(), 0
    while due is not None and wakings < 10:
        allocation.handle_timer(due)
        due, wakings = allocation.next_timer(), wakings + 1
    assert allocation.state in (AllocationState.GONE, AllocationState.OPEN, AllocationState.ASKING)


def main(seconds: float, seed: int) -> None:
    """Run for so long and say what was done."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    tried = understood = 0
    while time.monotonic() < end:
        data, sender = mutate(chance), chance.choice(SENDERS)
        try:
            understood += check(data, sender)
        except Exception:
            print(f"seed {seed}, input {tried} from {sender}: {data!r}", file=sys.stderr)
            raise
        tried += 1
    print(f"{tried} inputs, {understood} of them understood, seed {seed}")


if __name__ == "__main__":
    numbers = [float(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 10.0, int(numbers[1]) if len(numbers) > 1 else time.time_ns() % 1_000_000)
