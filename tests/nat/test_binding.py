"""Asking STUN servers in virtual time, and answering as one."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from nat.binding import BindingClient, BindingServer, State
from nat.stun import (
    BINDING,
    CHANGE_REQUEST,
    SOFTWARE,
    USERNAME,
    Address,
    Kind,
    Message,
    binding_error,
    binding_request,
    binding_success,
    error_code,
    mapped_address,
    parse,
)

A, B, C = ("192.0.2.1", 3478), ("192.0.2.2", 3478), ("192.0.2.3", 3479)
OURS = ("203.0.113.7", 40000)
TRANSACTION = bytes(range(12))


def tokens() -> Callable[[int], bytes]:
    numbers: Iterator[int] = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def client(*servers: Address) -> BindingClient:
    return BindingClient(servers, tokens())


def sent_until(asking: BindingClient, begin: float, end: float) -> list[tuple[float, Address]]:
    """When what was sent to whom."""
    sent = [(begin, ask.server) for ask in asking.begin(begin)]
    while (due := asking.next_timer()) is not None and due <= end:
        sent += [(due, ask.server) for ask in asking.handle_timer(due)]
    return sent


def test_the_first_answer_is_our_address() -> None:
    asking = client(A, B)
    (ask,) = asking.begin(10.0)
    assert ask.server == A
    assert asking.receive(binding_success(parse(ask.data), OURS).encode(), A, 10.1) == []
    assert (asking.state, asking.mapped, asking.next_timer()) == (State.ANSWERED, OURS, None)


def test_a_silent_server_is_asked_seven_times_and_given_up() -> None:
    asking = client(A)
    # RFC 8489 s.6.2.1: with RTO 500 ms at 0, 500, 1500, 3500, 7500, 15500 and 31500 ms; given up at 39500.
    times = [time for time, _ in sent_until(asking, 0.0, 1000.0)]
    assert times == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert asking.state is State.FAILED
    assert asking.failures == ("192.0.2.1: no answer",)


def test_the_next_server_is_asked_while_the_first_is_silent() -> None:
    asking = client(A, B, C)
    sent = sent_until(asking, 0.0, 3.0)
    assert [(time, server) for time, server in sent if server != A] == [
        (1.0, B),
        (1.5, B),
        (2.0, C),
        (2.5, B),
        (2.5, C),
    ]


def test_an_error_brings_the_next_server_at_once() -> None:
    asking = client(A, B)
    (ask,) = asking.begin(0.0)
    (other,) = asking.receive(binding_error(parse(ask.data), 500).encode(), A, 0.1)
    assert other.server == B
    assert asking.receive(binding_error(parse(other.data), 400).encode(), B, 0.2) == []
    assert (asking.state, asking.failures) == (
        State.FAILED,
        ("192.0.2.1: refused with 500", "192.0.2.2: refused with 400"),
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: (b"nonsense", A),
        lambda request: (binding_success(request, OURS).encode(), B),  # not who was asked
        lambda request: (binding_success(request, OURS).encode(), (A[0], 3479)),
        lambda request: (binding_success(Message(Kind.REQUEST, BINDING, TRANSACTION), OURS).encode(), A),
        lambda request: (request.encode(), A),
        lambda request: (binding_success(Message(Kind.REQUEST, 3, request.transaction), OURS).encode(), A),
    ],
)
def test_what_is_no_answer_changes_nothing(answer: Callable[[Message], tuple[bytes, Address]]) -> None:
    asking = client(A)
    (ask,) = asking.begin(0.0)
    data, source = answer(parse(ask.data))
    assert asking.receive(data, source, 0.1) == []
    assert (asking.state, asking.next_timer()) == (State.ASKING, 0.5)


@pytest.mark.parametrize(
    "seen", ["0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "240.0.0.1", "2001:db8::1"]
)
def test_an_address_that_nobody_reaches_is_not_believed(seen: str) -> None:
    asking = client(A)
    (ask,) = asking.begin(0.0)
    asking.receive(binding_success(parse(ask.data), (seen, 1)).encode(), A, 0.1)
    assert (asking.state, asking.failures) == (State.FAILED, (f"192.0.2.1: says that we are {seen}",))


def test_an_attribute_that_must_be_understood_fails_the_answer() -> None:
    asking = client(A)
    (ask,) = asking.begin(0.0)
    answer = binding_success(parse(ask.data), OURS)
    strange = Message(answer.kind, answer.method, answer.transaction, (*answer.attributes, (0x7777, b"")))
    asking.receive(strange.encode(), A, 0.1)
    assert asking.failures == ("192.0.2.1: unknown attribute 0x7777",)


def test_our_own_server_answers_our_own_client() -> None:
    asking, server = client(A), BindingServer()
    (ask,) = asking.begin(0.0)
    for source in (("203.0.113.9", 1), ("2001:db8::9", 2)):
        answer = server.receive(ask.data, source, 0.0)
        assert answer is not None and len(answer) <= len(ask.data)
        assert mapped_address(parse(answer)) == source


def test_the_answer_is_never_longer_than_the_request() -> None:
    server = BindingServer()
    for padding in range(0, 40, 4):
        request = binding_request(TRANSACTION, padding).encode()
        for number, host in enumerate(("203.0.113.9", "2001:db8::9")):
            answer = server.receive(request, (host, 1), float(padding))
            assert (answer is not None) == (len(request) >= (32, 44)[number])
            assert answer is None or len(answer) <= len(request)
    bare = binding_request(TRANSACTION).encode()
    assert server.receive(bare, OURS, 100.0) is None
    # RFC 5626 s.4.4.2: the keep-alive of a registered phone.
    assert server.receive(bare, OURS, 100.0, proven=True) is not None


@pytest.mark.parametrize(
    "request_",
    [
        Message(Kind.INDICATION, BINDING, TRANSACTION, ((SOFTWARE, bytes(40)),)),
        Message(Kind.SUCCESS, BINDING, TRANSACTION, ((SOFTWARE, bytes(40)),)),
        Message(Kind.REQUEST, 3, TRANSACTION, ((SOFTWARE, bytes(40)),)),
        Message(Kind.REQUEST, BINDING, TRANSACTION, ((USERNAME, b"abcd:efgh"), (SOFTWARE, bytes(40)))),
    ],
)
def test_only_plain_binding_requests_are_answered(request_: Message) -> None:
    assert BindingServer().receive(request_.encode(), OURS, 0.0) is None


def test_what_is_not_understood_is_refused_with_420() -> None:
    for attribute in ((0x7777, bytes(32)), (CHANGE_REQUEST, b"\0\0\0\6")):
        request = Message(Kind.REQUEST, BINDING, TRANSACTION, (attribute, (SOFTWARE, bytes(40))))
        answer = BindingServer().receive(request.encode(), OURS, 0.0)
        assert answer is not None and error_code(parse(answer)) == 420
    harmless = Message(
        Kind.REQUEST, BINDING, TRANSACTION, ((CHANGE_REQUEST, bytes(4)), (SOFTWARE, bytes(40)))
    )
    answer = BindingServer().receive(harmless.encode(), OURS, 0.0)
    assert answer is not None and parse(answer).kind is Kind.SUCCESS


def test_one_source_gets_so_many_answers_and_others_still_theirs() -> None:
    server, request = BindingServer(per_source_per_s=10), binding_request(TRANSACTION, 24).encode()
    answers = [server.receive(request, (OURS[0], port), 0.0) for port in range(1000)]
    assert sum(answer is not None for answer in answers) == 20
    assert server.receive(request, ("203.0.113.8", 1), 0.0) is not None
    assert sum(server.receive(request, OURS, 1.0 + n / 100) is not None for n in range(100)) <= 21
    # An IPv6 subscriber has a whole /64 to send from.
    many = [server.receive(request, (f"2001:db8::{n:x}", 1), 5.0) for n in range(1, 100)]
    assert sum(answer is not None for answer in many) == 20


def test_all_sources_together_get_so_many_answers_and_no_memory() -> None:
    server, request = BindingServer(per_s=100, max_sources=50), binding_request(TRANSACTION, 24).encode()
    answers = [server.receive(request, (f"198.51.{n // 250}.{n % 250 + 1}", 1), 0.0) for n in range(1000)]
    assert sum(answer is not None for answer in answers) == 100
    assert (server.answered, server.dropped) == (100, 900)
    assert len(server._sources) <= 50
