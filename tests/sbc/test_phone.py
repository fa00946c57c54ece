"""The built-in phones on real sockets of loopback: they call each other without an SBC in between."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable

import pytest

from sbc import phone as phone_module
from sbc.phone import CallFailed, Phone, parse_media
from signaling.flow import Address
from signaling.message import Request, Response, respond
from signaling.parser import parse


def numbers(seed: int) -> Callable[[], int]:
    source = random.Random(seed)
    return lambda: source.getrandbits(32)


def make(user: str, seed: int, tone_hz: int = 600) -> Phone:
    return Phone(user, "127.0.0.1", 0, tone_hz, numbers(seed), ring_s=0.02)


def both(scenario: Callable[[Phone, Phone], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), make("alice", 1, 600) as alice, make("bob", 2, 1000) as bob:
            await scenario(alice, bob)

    asyncio.run(run())


def test_two_phones_talk_and_find_each_others_tone() -> None:
    async def scenario(alice: Phone, bob: Phone) -> None:
        rung: list[str] = []
        talk = await alice.dial("sip:bob@127.0.0.1", bob.address, rung.append)
        other = await bob.incoming.get()
        await asyncio.gather(talk.converse(0.5), other.converse(0.5))
        await talk.hang_up()
        await other.ended.wait()
        assert rung == ["180 Ringing"]
        for heard in (talk.heard(1000), other.heard(600)):
            assert heard.found
            assert heard.packets >= 24
            assert heard.lost == 0

    both(scenario)


def test_the_called_phone_can_hang_up() -> None:
    async def scenario(alice: Phone, bob: Phone) -> None:
        talk = await alice.dial("sip:bob@127.0.0.1", bob.address)
        other = await bob.incoming.get()
        await other.hang_up()
        await talk.ended.wait()
        await talk.hang_up()

    both(scenario)


def test_a_busy_phone_refuses_and_the_refusal_is_acked() -> None:
    async def scenario(alice: Phone, bob: Phone) -> None:
        talk = await alice.dial("sip:bob@127.0.0.1", bob.address)
        async with make("carol", 3) as carol:
            with pytest.raises(CallFailed) as failed:
                await carol.dial("sip:bob@127.0.0.1", bob.address)
            assert failed.value.status == 486
            for _ in range(3000):
                if acked := any(data.startswith(b"ACK ") and b"carol" in data for data in bob.seen):
                    break
                await asyncio.sleep(0.01)
            assert acked
        await talk.hang_up()

    both(scenario)


class ScriptedPeer:
    """A raw socket that answers by hand."""

    def __init__(self) -> None:
        self.wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.wire.bind(("127.0.0.1", 0))
        self.wire.setblocking(False)
        self.address: Address = self.wire.getsockname()

    async def next(self) -> tuple[Request | Response, Address]:
        data, source = await asyncio.get_running_loop().sock_recvfrom(self.wire, 65535)
        return parse(data), source

    def send(self, message: Request | Response, to: Address) -> None:
        self.wire.sendto(message.encode(), to)


@pytest.fixture
def fast_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_module, "T1_S", 0.02)
    monkeypatch.setattr(phone_module, "GIVE_UP_S", 0.4)


def alone(scenario: Callable[[Phone, ScriptedPeer], Awaitable[None]]) -> None:
    async def run() -> None:
        peer = ScriptedPeer()
        with peer.wire:
            async with asyncio.timeout(60), make("alice", 1) as alice:
                await scenario(alice, peer)

    asyncio.run(run())


@pytest.mark.usefixtures("fast_timers")
def test_invite_is_repeated_until_answered_and_a_repeated_200_is_acked_again() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        dialling = asyncio.create_task(alice.dial("sip:bob@127.0.0.1", peer.address))
        first, _ = await peer.next()
        again, source = await peer.next()
        assert isinstance(again, Request)
        assert first.encode() == again.encode()
        ok = respond(again, 200, "OK", "b", [("Contact", "<sip:bob@127.0.0.1>")])
        peer.send(ok, source)
        await dialling
        acks: list[bytes] = []
        peer.send(ok, source)
        while len(acks) < 2:
            message, _ = await peer.next()
            assert isinstance(message, Request)
            if message.method == "ACK":
                acks.append(message.encode())
        assert acks[0] == acks[1]

    alone(scenario)


@pytest.mark.usefixtures("fast_timers")
def test_nobody_answers() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        with pytest.raises(CallFailed, match="no answer at all"):
            await alice.dial("sip:bob@127.0.0.1", peer.address)

    alone(scenario)


def test_a_phone_that_rings_too_long_is_cancelled() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        dialling = asyncio.create_task(alice.dial("sip:bob@127.0.0.1", peer.address, timeout_s=0.4))
        invite, source = await peer.next()
        assert isinstance(invite, Request)
        peer.send(respond(invite, 180, "Ringing", "b"), source)
        with pytest.raises(CallFailed, match="not answered within"):
            await dialling
        cancel, _ = await peer.next()
        assert isinstance(cancel, Request)
        assert (cancel.method, cancel.via.branch) == ("CANCEL", invite.via.branch)

    alone(scenario)


def test_a_200_that_crosses_the_cancel_is_acked_and_released() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        dialling = asyncio.create_task(alice.dial("sip:bob@127.0.0.1", peer.address, timeout_s=0.1))
        invite, source = await peer.next()
        assert isinstance(invite, Request)
        with pytest.raises(CallFailed, match="not answered within"):
            await dialling
        cancel, _ = await peer.next()
        assert isinstance(cancel, Request)
        assert cancel.method == "CANCEL"
        ok = respond(invite, 200, "OK", "b", [("Contact", "<sip:there@127.0.0.1>")])
        peer.send(ok, source)
        peer.send(ok, source)
        sent = [(await peer.next())[0] for _ in range(3)]
        assert [one.method for one in sent if isinstance(one, Request)] == ["ACK", "BYE", "ACK"]
        bye = sent[1]
        assert isinstance(bye, Request)
        assert (bye.uri, bye.to.tag, bye.cseq.number) == ("sip:there@127.0.0.1", "b", 2)
        peer.send(respond(bye, 200, "OK", None), source)

    alone(scenario)


def request(method: str, to: str, peer: ScriptedPeer, branch: str, body: bytes = b"") -> Request:
    fields = [
        ("Via", f"SIP/2.0/UDP 192.0.2.99:5060;branch={branch};rport"),
        ("Via", "SIP/2.0/UDP 192.0.2.98;branch=z9hG4bKbelow"),
        ("Max-Forwards", "70"),
        ("From", "<sip:x@192.0.2.99>;tag=x"),
        ("To", to),
        ("Call-ID", "scripted"),
        ("CSeq", f"1 {method}"),
        ("Contact", f"<sip:x@127.0.0.1:{peer.address[1]}>"),
    ]
    return Request(method, "sip:alice@127.0.0.1", fields, body)


@pytest.mark.usefixtures("fast_timers")
def test_a_200_is_repeated_until_its_ack_and_answers_go_to_the_source() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        peer.send(request("INVITE", "<sip:alice@127.0.0.1>", peer, "z9hG4bK1"), alice.address)
        ringing, _ = await peer.next()
        assert isinstance(ringing, Response)
        assert ringing.status == 180
        assert ringing.values("Via") == [
            f"SIP/2.0/UDP 192.0.2.99:5060;branch=z9hG4bK1;rport={peer.address[1]};received=127.0.0.1",
            "SIP/2.0/UDP 192.0.2.98;branch=z9hG4bKbelow",
        ]
        answers = [(await peer.next())[0] for _ in range(3)]
        assert len({answer.encode() for answer in answers}) == 1
        peer.send(request("ACK", answers[0].get("To") or "", peer, "z9hG4bK2"), alice.address)
        await asyncio.sleep(0.1)
        # What was under way when the ACK came may still be read; then it is quiet.
        while True:
            try:
                peer.wire.recv(65535)
            except BlockingIOError:
                break
        await asyncio.sleep(0.1)
        with pytest.raises(BlockingIOError):
            peer.wire.recv(65535)

    alone(scenario)


def test_the_first_repetition_of_a_200_waits_for_t1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_module, "T1_S", 0.2)

    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        loop = asyncio.get_running_loop()
        peer.send(request("INVITE", "<sip:alice@127.0.0.1>", peer, "z9hG4bK1"), alice.address)
        await peer.next()
        times = []
        for _ in range(3):
            await peer.next()
            times.append(loop.time())
        # RFC 3261 s.13.3.1.4: T1, then twice as long.
        assert times[1] - times[0] > 0.1
        assert times[2] - times[1] > 0.25

    alone(scenario)


def test_cancel_ends_the_ringing_with_487() -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        to = "<sip:alice@127.0.0.1>"
        peer.send(request("INVITE", to, peer, "z9hG4bK1"), alice.address)
        peer.send(request("CANCEL", to, peer, "z9hG4bK1"), alice.address)
        answers = [(await peer.next())[0] for _ in range(3)]
        assert [
            (answer.status, answer.cseq.method) for answer in answers if isinstance(answer, Response)
        ] == [
            (180, "INVITE"),
            (200, "CANCEL"),
            (487, "INVITE"),
        ]
        assert alice.incoming.empty()

    alone(scenario)


@pytest.mark.parametrize(
    ("method", "to", "status"),
    [
        ("OPTIONS", "<sip:alice@127.0.0.1>", 200),
        ("BYE", "<sip:alice@127.0.0.1>;tag=none", 481),
        ("NOTIFY", "<sip:alice@127.0.0.1>", 481),
    ],
)
def test_other_requests_are_answered(method: str, to: str, status: int) -> None:
    async def scenario(alice: Phone, peer: ScriptedPeer) -> None:
        peer.wire.sendto(b"\r\n\r\n", alice.address)
        peer.send(request(method, to, peer, "z9hG4bK1"), alice.address)
        answer, _ = await peer.next()
        assert isinstance(answer, Response)
        assert answer.status == status

    alone(scenario)


@pytest.mark.parametrize(
    ("sdp", "address"),
    [
        (b"v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n", ("192.0.2.1", 4000)),
        (b"v=0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\n", ("2001:db8::1", 4000)),
        (b"c=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\nm=video 5000 RTP/AVP 31\r\nc=IN IP4 1.1.1.1\r\n",
         ("192.0.2.1", 4000)),
        (b"c=IN IP4 192.0.2.1\r\nm=audio 0 RTP/AVP 0\r\n", None),
        (b"c=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\n", None),
        (b"", None),
        (b"m=audio x\r\nc=IN", None),
    ],
)  # fmt: skip
def test_parse_media(sdp: bytes, address: Address | None) -> None:
    assert parse_media(sdp) == address
