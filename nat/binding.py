"""STUN Binding (RFC 8489): asking what address of ours others see, and telling others theirs. No I/O.

`BindingClient` asks one server after the other, each before the one in front of it is given up, and takes the first
answer. `BindingServer` answers requests, never with more bytes than they had and never too often: it is of no use
to who forges the source of a request.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from nat.address import Kind as Scope
from nat.address import classify, family, is_usable, subscriber
from nat.stun import (
    BINDING,
    CHANGE_REQUEST,
    HEADER_BYTES,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    TRANSACTION_BYTES,
    USERNAME,
    XOR_MAPPED_ADDRESS,
    Address,
    Kind,
    StunError,
    binding_error,
    binding_request,
    binding_success,
    error_code,
    mapped_address,
    parse,
    unknown_required,
)

# RFC 8489 s.6.2.1
RTO_S = 0.5
TRANSMISSIONS = 7
LAST_WAIT_RTOS = 16
NEXT_SERVER_S = 1.0
"""A server that is silent for so long gets company."""
ANSWER_BYTES = {4: HEADER_BYTES + 12, 6: HEADER_BYTES + 24}
"""Size of a success response, by family."""
PADDING = ANSWER_BYTES[6] - HEADER_BYTES
"""What makes our own requests as long as any answer."""


class State(Enum):
    """Where a `BindingClient` is."""

    ASKING = "asking"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ask:
    """Send these bytes to a server."""

    data: bytes
    server: Address


@dataclass(slots=True)
class _Question:
    """The transaction with one server."""

    server: Address
    transaction: bytes
    sent: int = 0
    due: float = 0.0
    failure: str = ""


class BindingClient:
    """One search for our address. `begin`, `receive` and `handle_timer` return what is to be sent.

    `token(n)` gives n unguessable bytes. `mapped` is the answer of `server`; `failures` says what was wrong with
    each of the others.
    """

    def __init__(self, servers: Sequence[Address], token: Callable[[int], bytes]) -> None:
        self._waiting = list(servers)
        self._token = token
        self._asked: list[_Question] = []
        self._next_at = math.inf
        self.state = State.ASKING
        self.mapped: Address | None = None
        self.server: Address | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why each server that was asked gave no address."""
        return tuple(f"{q.server[0]}: {q.failure}" for q in self._asked if q.failure)

    def begin(self, now: float) -> list[Ask]:
        """The first request."""
        return self._ask_next(now)

    def receive(self, data: bytes, source: Address, now: float) -> list[Ask]:
        """A datagram. What is no answer of a server to what it was asked changes nothing."""
        question = self._question(data, source)
        if question is None or self.state is not State.ASKING:
            return []
        try:
            message = parse(data)
            if message.kind is Kind.ERROR:
                question.failure = f"refused with {error_code(message)}"
            elif message.kind is not Kind.SUCCESS or message.method != BINDING:
                return []
            elif unknown := unknown_required(message, frozenset({0x0001, XOR_MAPPED_ADDRESS})):
                # RFC 8489 s.6.3.3
                question.failure = f"unknown attribute 0x{unknown[0]:04x}"
            else:
                mapped = mapped_address(message)
                if _is_ours(mapped[0], source[0]):
                    self.mapped, self.server, self.state = mapped, source, State.ANSWERED
                    return []
                question.failure = f"says that we are {mapped[0]}"
        except StunError as error:
            question.failure = str(error)
        return self._ask_next(now)

    def handle_timer(self, now: float) -> list[Ask]:
        """What is due."""
        if self.state is not State.ASKING:
            return []
        asks: list[Ask] = []
        for question in self._asked:
            if question.failure or question.due > now:
                continue
            if question.sent >= TRANSMISSIONS:
                question.failure = "no answer"
                asks += self._ask_next(now)
            else:
                asks.append(self._send(question, now))
        if self._next_at <= now:
            asks += self._ask_next(now)
        return asks

    def next_timer(self) -> float | None:
        """When `handle_timer` is wanted."""
        if self.state is not State.ASKING:
            return None
        return min((self._next_at, *(q.due for q in self._asked if not q.failure)))

    def _ask_next(self, now: float) -> list[Ask]:
        self._next_at = math.inf
        if not self._waiting:
            if all(question.failure for question in self._asked):
                self.state = State.FAILED
            return []
        question = _Question(self._waiting.pop(0), self._token(TRANSACTION_BYTES))
        self._asked.append(question)
        if self._waiting:
            self._next_at = now + NEXT_SERVER_S
        return [self._send(question, now)]

    @staticmethod
    def _send(question: _Question, now: float) -> Ask:
        question.sent += 1
        rtos = LAST_WAIT_RTOS if question.sent == TRANSMISSIONS else 2 ** (question.sent - 1)
        question.due = now + rtos * RTO_S
        return Ask(binding_request(question.transaction, PADDING).encode(), question.server)

    def _question(self, data: bytes, source: Address) -> _Question | None:
        for question in self._asked:
            if question.server == source and question.transaction == data[8:HEADER_BYTES]:
                return None if question.failure else question
        return None


def _is_ours(address: str, server: str) -> bool:
    """Whether an address that `server` saw can be one that peers reach us at."""
    if family(address) != family(server) or not is_usable(address):
        return False
    scope = classify(address)
    return scope not in {Scope.LOOPBACK, Scope.LINK_LOCAL} or scope is classify(server)


@dataclass(slots=True)
class _Bucket:
    """A token bucket, full at first."""

    tokens: float = 0.0
    at: float = -math.inf

    def take(self, rate: float, burst: float, now: float) -> bool:
        """Whether one more may pass."""
        self.tokens = min(burst, self.tokens + (now - self.at) * rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class BindingServer:
    """Answers Binding requests, so that a phone finds out where it is seen from.

    Safe against reflection: an answer is never longer than its request, so one that is shorter than the answer would
    be (a bare header is) gets none; per source address and in all there are so many answers a second and no more.
    Only who has shown that it is there (a registered phone) may ask with a bare header, as RFC 5626 s.4.4.2 has it.
    """

    per_source_per_s: float = 10.0
    per_s: float = 500.0
    max_sources: int = 4096
    answered: int = 0
    dropped: int = 0
    _all: _Bucket = field(default_factory=_Bucket)
    _sources: dict[str, _Bucket] = field(default_factory=dict)

    def receive(self, data: bytes, source: Address, now: float, proven: bool = False) -> bytes | None:
        """The answer to a datagram, None when there is none to be given. Never raises.

        `proven`: packets to `source` are known to reach who sent this.
        """
        answer = self._answer(data, source)
        fits = answer is not None and (proven or len(answer) <= len(data))
        if not fits or not self._may(source, now):
            self.dropped += 1
            return None
        self.answered += 1
        return answer

    def _answer(self, data: bytes, source: Address) -> bytes | None:
        try:
            request = parse(data)
        except StunError:
            return None
        if request.kind is not Kind.REQUEST or request.method != BINDING or not is_usable(source[0]):
            return None
        if request.get(USERNAME) or request.get(MESSAGE_INTEGRITY) or request.get(MESSAGE_INTEGRITY_SHA256):
            # A connectivity check of ICE (RFC 8445 s.7.2.2): not ours to answer without its password.
            return None
        if unknown := unknown_required(request, frozenset({CHANGE_REQUEST})):
            return binding_error(request, 420, unknown).encode()
        change = request.get(CHANGE_REQUEST)
        if change is not None and change != b"\0\0\0\0":
            # RFC 5780: we have no second address to answer from, and from the same one the answer would be wrong.
            return binding_error(request, 420, (CHANGE_REQUEST,)).encode()
        return binding_success(request, source).encode()

    def _may(self, source: Address, now: float) -> bool:
        who = subscriber(source[0])
        bucket = self._sources.get(who)
        if bucket is None:
            if len(self._sources) >= self.max_sources:
                self._forget(now)
            bucket = self._sources[who] = _Bucket()
        # The source first: one that sends too much must not use up what all have together.
        return bucket.take(self.per_source_per_s, 2 * self.per_source_per_s, now) and self._all.take(
            self.per_s, self.per_s, now
        )

    def _forget(self, now: float) -> None:
        """Drop the sources whose bucket is full again, or all: forged sources must not fill the memory."""
        self._sources = {who: one for who, one in self._sources.items() if now - one.at < 2.0}
        if len(self._sources) >= self.max_sources:
            self._sources.clear()
