"""A TURN allocation (RFC 8656): an address at a relay that sends for us and hands on to us what comes there. No I/O.

    begin, receive, want, close, handle_timer    return what is to be sent to the server
    wrap, unwrap                                 media to a peer and from one

An allocation may ask for an even port with the next one held back (EVEN-PORT), and another one then claims that by
the reservation token, so that RTP and RTCP have ports that are neighbours (RFC 3550 s.11).
"""

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from nat.stun import (
    ERROR_CODE,
    TRANSACTION_BYTES,
    USERNAME,
    Address,
    Kind,
    Message,
    StunError,
    error_code,
    is_signed,
    parse,
    xor_address,
    xored_address,
)

# RFC 8656 s.17
ALLOCATE, REFRESH, SEND, CREATE_PERMISSION, CHANNEL_BIND = 3, 4, 6, 8, 9
CHANNEL_NUMBER, LIFETIME, XOR_PEER_ADDRESS, DATA = 0x000C, 0x000D, 0x0012, 0x0013
REALM, NONCE, XOR_RELAYED_ADDRESS, EVEN_PORT = 0x0014, 0x0015, 0x0016, 0x0018
REQUESTED_ADDRESS_FAMILY, REQUESTED_TRANSPORT, RESERVATION_TOKEN = 0x0017, 0x0019, 0x0022

MAX_BYTES = 65_535
UDP = b"\x11\0\0\0"
IPV6 = b"\2\0\0\0"
FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF
LIFETIME_S = 600
# A permission lives for 5 minutes (s.9), a channel for 10 (s.12).
RENEW_S = 240.0
REFRESH_S = 20.0
"""Far sooner than it would run out: between us and the server may be a NAT or a firewall that forgets, and a server
that was started again has forgotten us."""
RTO_S = 0.5
TRANSMISSIONS = 7
LAST_WAIT_RTOS = 16
MISMATCH = 437
"""Allocation Mismatch: the server has none of ours (any more)."""
MAX_ATTEMPTS = 3
"""How often one request may be challenged: for the realm, for a stale nonce, and once more."""
_CHANNEL_DATA = struct.Struct("!HH")


class State(Enum):
    """Where an allocation is."""

    ASKING = "asking"
    OPEN = "open"
    CLOSING = "closing"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are at the server."""

    username: str
    password: str = field(repr=False)


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    method: int
    attributes: tuple[tuple[int, bytes], ...]
    peer: Address | None = None  # with port 0 for a permission, which is for a host
    attempts: int = 0
    sent: int = 0
    due: float = 0.0
    data: bytes = b""


@dataclass(slots=True)
class _Channel:
    """A channel to a peer; usable once the server has said so."""

    number: int
    renew_at: float
    bound: bool = False


class Allocation:
    """One allocation at one server. `why` says why it is gone; `relayed` is our address there.

    `token(n)` gives n unguessable bytes. `reserve` asks for an even port and holds the next one back, `reserved` claims
    such a one. `ipv6` asks for an address of that family, without which it is IPv4 whatever the way to the server is.
    """

    def __init__(
        self,
        account: Account,
        token: Callable[[int], bytes],
        reserve: bool = False,
        reserved: bytes | None = None,
        ipv6: bool = False,
    ) -> None:
        self._account = account
        self._token = token
        self._wanted: tuple[tuple[int, bytes], ...] = (
            (REQUESTED_TRANSPORT, UDP),
            (LIFETIME, LIFETIME_S.to_bytes(4, "big")),
        )
        if ipv6 and reserved is None:  # RFC 8656 s.7.1: a reservation has its family
            self._wanted += ((REQUESTED_ADDRESS_FAMILY, IPV6),)
        if reserve:
            self._wanted += ((EVEN_PORT, b"\x80"),)
        elif reserved is not None:
            self._wanted += ((RESERVATION_TOKEN, reserved),)
        self.state = State.ASKING
        self.why = ""
        self.relayed: Address | None = None
        self.reservation: bytes | None = None
        self._realm = self._nonce = b""
        self._key: bytes | None = None
        self._asked: dict[bytes, _Asked] = {}
        self._channels: dict[Address, _Channel] = {}
        self._peers: dict[int, Address] = {}
        self._permissions: dict[str, float] = {}
        self._next_channel = FIRST_CHANNEL
        self._refresh_at = 0.0

    # -- control -------------------------------------------------------------------------------------------

    def begin(self, now: float) -> list[bytes]:
        """Ask for the allocation."""
        return [self._ask(_Asked(ALLOCATE, self._wanted), now)]

    def want(self, hosts: Iterable[str], peers: Iterable[Address], now: float) -> list[bytes]:
        """From now on packets come from these hosts and no others, and go to `peers` by channels.

        What was wanted before and is not any more is left to run out.
        """
        if self.state is not State.OPEN:
            return []
        sends = []
        channels = {peer: self._channels.get(peer) for peer in peers}
        for peer, channel in channels.items():
            if channel is None:
                sends.append(self._bind(peer, now))
        for peer in self._channels.keys() - channels.keys():
            # The number must not mean another peer while the server may still take it for this one.
            del self._channels[peer]
        covered = {host for host, _ in channels}
        wanted = [host for host in dict.fromkeys(hosts) if host not in covered]
        for host in wanted:
            if host not in self._permissions:
                sends.append(self._permit(host, now))
        self._permissions = {host: at for host, at in self._permissions.items() if host in wanted}
        return sends

    def close(self, now: float) -> list[bytes]:
        """Give it up: the server frees the address at once."""
        if self.state is State.ASKING:
            self._gone("closed")
        if self.state is not State.OPEN:
            return []
        self.state = State.CLOSING
        self._asked.clear()
        return [self._ask(_Asked(REFRESH, ((LIFETIME, bytes(4)),)), now)]

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """An answer of the server. Anything else changes nothing."""
        asked = self._asked.get(data[8:20])
        if asked is None:
            return []
        try:
            message = parse(data)
            if message.method != asked.method or message.kind not in (Kind.SUCCESS, Kind.ERROR):
                return []
            code = error_code(message) if message.kind is Kind.ERROR else 0
            # RFC 8489 s.9.2.5: with a key, only a challenge may come without a signature.
            if self._key is not None and code not in (401, 438) and not is_signed(data, self._key):
                return []
            del self._asked[message.transaction]
            if message.kind is Kind.ERROR:
                return self._refused(asked, code, message, now)
            return self._granted(asked, message, now)
        except StunError:
            return []

    def handle_timer(self, now: float) -> list[bytes]:
        """What is due."""
        sends: list[bytes] = []
        for transaction, asked in list(self._asked.items()):
            if asked.due > now:
                continue
            if asked.sent >= TRANSMISSIONS:
                del self._asked[transaction]
                self._failed(asked, "the server does not answer", now)
            else:
                sends.append(self._send(asked, now))
        if self.state is not State.OPEN:
            return sends
        if self._refresh_at <= now:
            self._refresh_at = now + LIFETIME_S
            sends.append(self._ask(_Asked(REFRESH, ((LIFETIME, LIFETIME_S.to_bytes(4, "big")),)), now))
        for peer, channel in self._channels.items():
            if channel.renew_at <= now:
                sends.append(self._bind(peer, now))
        sends += [self._permit(host, now) for host, at in list(self._permissions.items()) if at <= now]
        return sends

    def next_timer(self) -> float | None:
        """When `handle_timer` is wanted."""
        times = [asked.due for asked in self._asked.values()]
        if self.state is State.OPEN:
            times += [self._refresh_at, *self._permissions.values()]
            times += [channel.renew_at for channel in self._channels.values()]
        return min(times, default=None)

    # -- media ---------------------------------------------------------------------------------------------

    def wrap(self, payload: bytes, peer: Address) -> bytes:
        """What carries `payload` to a peer (s.11.1, s.12.5): by its channel, or before there is one by itself."""
        channel = self._channels.get(peer)
        if channel is not None and channel.bound:
            return _CHANNEL_DATA.pack(channel.number, len(payload)) + payload
        transaction = self._token(TRANSACTION_BYTES)
        attributes = ((XOR_PEER_ADDRESS, xor_address(peer, transaction)), (DATA, payload))
        return Message(Kind.INDICATION, SEND, transaction, attributes).encode()

    def unwrap(self, data: bytes) -> tuple[Address, bytes] | None:
        """The peer and what it sent, None when this is something else (s.11.4, s.12.6)."""
        if len(data) < 4:
            return None
        if data[0] >> 6 == 1:
            number, length = _CHANNEL_DATA.unpack_from(data)
            peer = self._peers.get(number)
            return None if peer is None or 4 + length > len(data) else (peer, data[4 : 4 + length])
        if data[:2] != b"\x00\x17":
            return None
        try:
            message = parse(data, MAX_BYTES)
            peer = xored_address(message, XOR_PEER_ADDRESS)
        except StunError:
            return None
        payload = message.get(DATA)
        return None if peer is None or payload is None else (peer, payload)

    # -- inside --------------------------------------------------------------------------------------------

    def _ask(self, asked: _Asked, now: float) -> bytes:
        transaction = self._token(TRANSACTION_BYTES)
        attributes = asked.attributes
        if asked.peer is not None:
            attributes += ((XOR_PEER_ADDRESS, xor_address(asked.peer, transaction)),)
        if self._key is not None:
            who = ((USERNAME, self._account.username.encode()), (REALM, self._realm), (NONCE, self._nonce))
            attributes += who
        asked.data = Message(Kind.REQUEST, asked.method, transaction, attributes).encode(key=self._key)
        asked.sent = 0
        self._asked[transaction] = asked
        return self._send(asked, now)

    @staticmethod
    def _send(asked: _Asked, now: float) -> bytes:
        asked.sent += 1
        asked.due = now + RTO_S * (LAST_WAIT_RTOS if asked.sent == TRANSMISSIONS else 2 ** (asked.sent - 1))
        return asked.data

    def _bind(self, peer: Address, now: float) -> bytes:
        channel = self._channels.get(peer)
        if channel is None:
            channel = self._channels[peer] = _Channel(self._next_channel, 0.0)
            # The next one that has this number comes hours later.
            self._next_channel += 1
            if self._next_channel > LAST_CHANNEL:
                self._next_channel = FIRST_CHANNEL
        channel.renew_at = now + RENEW_S
        number = (channel.number << 16).to_bytes(4, "big")
        return self._ask(_Asked(CHANNEL_BIND, ((CHANNEL_NUMBER, number),), peer), now)

    def _permit(self, host: str, now: float) -> bytes:
        self._permissions[host] = now + RENEW_S
        return self._ask(_Asked(CREATE_PERMISSION, (), (host, 0)), now)

    def _granted(self, asked: _Asked, message: Message, now: float) -> list[bytes]:
        if asked.method in (ALLOCATE, REFRESH) and self.state is State.CLOSING:
            self._gone("closed")
        elif asked.method == ALLOCATE:
            self.relayed = xored_address(message, XOR_RELAYED_ADDRESS)
            self.reservation = message.get(RESERVATION_TOKEN)
            if self.relayed is None:
                self._gone("the server has sent no address")
            else:
                self.state = State.OPEN
                self._lives(message, now)
        elif asked.method == REFRESH:
            self._lives(message, now)
        elif asked.method == CHANNEL_BIND and asked.peer in self._channels:
            channel = self._channels[asked.peer]
            channel.bound = True
            self._peers[channel.number] = asked.peer
        return []

    def _lives(self, message: Message, now: float) -> None:
        seconds = int.from_bytes((message.get(LIFETIME) or b"")[:4], "big")
        self._refresh_at = now + min(REFRESH_S, max(5.0, seconds / 2))

    def _refused(self, asked: _Asked, code: int, message: Message, now: float) -> list[bytes]:
        realm, nonce = message.get(REALM), message.get(NONCE)
        asked.attempts += 1
        # A second 401 for the same realm means that the password is wrong.
        wrong = code == 401 and self._key is not None and realm in (None, self._realm)
        challenged = code in (401, 438) and nonce is not None and bool(realm or self._realm)
        if challenged and not wrong and nonce is not None and asked.attempts < MAX_ATTEMPTS:
            self._realm, self._nonce = realm or self._realm, nonce
            self._key = self._long_term_key()
            return [self._ask(asked, now)]
        reason = (message.get(ERROR_CODE) or b"")[4:84].decode("utf-8", "replace")
        plain = "".join(c for c in reason if c.isprintable()).strip()
        self._failed(asked, f"{code} {plain}".strip(), now, code)
        return []

    def _long_term_key(self) -> bytes:
        # RFC 8489 s.9.2.2
        account = self._account
        text = b":".join((account.username.encode(), self._realm, account.password.encode()))
        return hashlib.md5(text, usedforsecurity=False).digest()

    def _failed(self, asked: _Asked, why: str, now: float, code: int = 0) -> None:
        """A request has failed for good."""
        if asked.method in (ALLOCATE, REFRESH) or code == MISMATCH:
            self._gone("closed" if self.state is State.CLOSING else why)
        elif asked.method == CREATE_PERMISSION and asked.peer is not None:
            if asked.peer[0] in self._permissions:
                self._permissions[asked.peer[0]] = now + RENEW_S / 4
        elif asked.peer in self._channels:
            self._channels[asked.peer].renew_at = now + RENEW_S / 4

    def _gone(self, why: str) -> None:
        self.state, self.why = State.GONE, why
        self._asked.clear()
