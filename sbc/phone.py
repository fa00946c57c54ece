"""A built-in phone: a small, honest SIP user agent with a tone for a voice, on real UDP sockets.

It is the other side of `make run`: it knows nothing of the SBC's insides and shares only the message classes.
It keeps to RFC 3261 where a call over a lossy wire needs it: INVITE and BYE are repeated until answered, 200
until acknowledged, and what is asked again is answered again.
"""

import asyncio
import contextlib
import dataclasses
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sbc.tone import PTIME_MS, Heard, ToneEar, ToneVoice
from signaling.errors import ParseError
from signaling.flow import Address, host_port
from signaling.message import Request, Response, respond
from signaling.parser import parse

T1_S = 0.5
T2_S = 4.0
GIVE_UP_S = 64 * T1_S
"""Timers B, F and H (RFC 3261 s.17)."""
RING_S = 0.4
"""How long the phone rings before it is picked up."""
SEEN_LIMIT = 500
"""How many datagrams a phone remembers for the topology check."""
REMEMBERED_LIMIT = 200
"""How many of its requests and of its answers a phone keeps for repetitions."""
ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO"


class CallFailed(Exception):
    """The call did not come to be. `status` is the final answer, 0 when none came."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}" if status else reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class _Pending:
    """A client transaction: the request is repeated until an answer stops it."""

    method: str
    branch: str
    data: bytes
    target: Address
    answers: asyncio.Queue[Response | None] = field(default_factory=asyncio.Queue)
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """No further repetition."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Talk:
    """One call of a phone: its dialog (RFC 3261 s.12), the voice and the ear."""

    def __init__(self, phone: "Phone", call_id: str, local: str, remote: str, peer: Address) -> None:
        self._phone = phone
        self.call_id = call_id
        self.local = local
        self.remote = remote
        self.peer = peer
        self.target = ""
        self.routes: tuple[str, ...] = ()
        self.cseq = 0
        self.media: Address | None = None
        self.voice = ToneVoice(phone.tone_hz, ssrc=phone.new_number(), sequence=phone.new_number() & 0x7FFF)
        self.ear = ToneEar()
        self.answered = asyncio.Event()
        self.ended = asyncio.Event()
        self.ack = b""
        self.invite: Request | None = None
        self.repeat: asyncio.TimerHandle | None = None

    async def converse(self, seconds: float) -> None:
        """Send the tone for `seconds` at the pace of 20 ms, or until the other side hangs up."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for index in range(round(seconds * 1000 / PTIME_MS)):
            pause = begin + index * PTIME_MS / 1000 - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            if self.ended.is_set():
                return
            if self.media is not None:
                self._phone.send_audio(self.voice.next_packet(), self.media)

    def heard(self, hz: int) -> Heard:
        """What has come from the other side, judged as the tone `hz`."""
        return self.ear.verdict(hz)

    async def hang_up(self) -> None:
        """Send BYE and wait for its answer; nothing happens when the call is over already."""
        if self.ended.is_set():
            return
        self.ended.set()
        await self._phone.end(self)


class Phone:
    """A user agent on `host`: `async with Phone(...) as phone: talk = await phone.dial(...)`.

    `number` gives 32 random bits. An incoming call rings, is answered, and put into `incoming`.
    """

    def __init__(
        self, user: str, host: str, port: int, tone_hz: int, number: Callable[[], int], ring_s: float = RING_S
    ) -> None:
        self.user = user
        self.host = host
        self.tone_hz = tone_hz
        self.new_number = number
        self.seen: deque[bytes] = deque(maxlen=SEEN_LIMIT)
        self.incoming: asyncio.Queue[Talk] = asyncio.Queue()
        self._ring_s = ring_s
        self._port = port
        self._talks: dict[str, Talk] = {}
        self._given_up: dict[str, Talk] = {}
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._answers: dict[tuple[str, str, str], bytes] = {}
        self._sip: socket.socket | None = None
        self._rtp: socket.socket | None = None

    async def __aenter__(self) -> "Phone":
        loop = asyncio.get_running_loop()
        self._sip = _bind(self.host, self._port)
        try:
            self._rtp = _bind_even(self.host)
        except OSError:
            self._sip.close()
            raise
        loop.add_reader(self._sip, self._read_sip, self._sip)
        loop.add_reader(self._rtp, self._read_rtp, self._rtp)
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for pending in self._pending.values():
            pending.stop()
        for talk in self._talks.values():
            _stop_repeating(talk)
            talk.ended.set()
        for wire in (self._sip, self._rtp):
            if wire is not None:
                loop.remove_reader(wire)
                wire.close()

    @property
    def address(self) -> Address:
        """Where this phone takes SIP."""
        return self.host, self._port if self._sip is None else self._sip.getsockname()[1]

    @property
    def media_address(self) -> Address:
        """Where this phone takes RTP."""
        return self.host, 0 if self._rtp is None else self._rtp.getsockname()[1]

    async def dial(
        self,
        uri: str,
        proxy: Address,
        on_progress: Callable[[str], None] | None = None,
        timeout_s: float = 30.0,
    ) -> Talk:
        """Call `uri` through `proxy`. Raises CallFailed."""
        talk = Talk(
            self,
            call_id=f"{self.new_number():08x}{self.new_number():08x}@{self.host}",
            local=f'"{self.user}" <sip:{self.user}@{host_port(self.address)}>;tag={self.new_number():08x}',
            remote=f"<{uri}>",
            peer=proxy,
        )
        talk.target = uri
        self._talks[talk.call_id] = talk
        pending = self._ask(talk, "INVITE", body=self._offer())
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._final_answer(pending, on_progress)
        except TimeoutError as error:
            self._cancel(pending, talk)
            self._given_up[talk.call_id] = talk
            if len(self._given_up) > REMEMBERED_LIMIT:
                del self._given_up[next(iter(self._given_up))]
            raise CallFailed(0, f"not answered within {timeout_s:g} s") from error
        finally:
            if not talk.answered.is_set():
                self._talks.pop(talk.call_id, None)
                talk.ended.set()
        if response is None:
            raise CallFailed(0, "no answer at all")
        if response.status >= 300:
            raise CallFailed(response.status, response.reason)
        return talk

    async def end(self, talk: Talk) -> None:
        """BYE (RFC 3261 s.15.1.1)."""
        _stop_repeating(talk)
        pending = self._ask(talk, "BYE")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                await self._final_answer(pending, None)
        pending.stop()
        self._talks.pop(talk.call_id, None)

    def send_audio(self, packet: bytes, to: Address) -> None:
        """One RTP packet; a full socket buffer loses it, as a wire would."""
        if self._rtp is not None:
            with contextlib.suppress(OSError):
                self._rtp.sendto(packet, to)

    # Requests that this phone sends

    def _ask(self, talk: Talk, method: str, body: bytes = b"") -> _Pending:
        talk.cseq += 1
        branch = f"z9hG4bK{self.new_number():08x}{self.new_number():08x}"
        data = self._request(talk, method, branch, talk.cseq, body).encode()
        pending = _Pending(method, branch, data, talk.peer)
        self._pending[branch, method] = pending
        if len(self._pending) > REMEMBERED_LIMIT:
            self._pending.pop(next(iter(self._pending))).stop()
        self._transmit(pending, T1_S, asyncio.get_running_loop().time())
        return pending

    def _request(self, talk: Talk, method: str, branch: str, cseq: int, body: bytes = b"") -> Request:
        fields = [
            ("Via", f"SIP/2.0/UDP {host_port(self.address)};branch={branch};rport"),
            ("Max-Forwards", "70"),
            *(("Route", route) for route in talk.routes),
            ("From", talk.local),
            ("To", talk.remote),
            ("Call-ID", talk.call_id),
            ("CSeq", f"{cseq} {method}"),
        ]
        if method == "INVITE":
            fields += [("Contact", self._contact()), ("Allow", ALLOW)]
        if method != "ACK":
            fields.append(("User-Agent", f"built-in phone {self.user}"))
        if body:
            fields.append(("Content-Type", "application/sdp"))
        return Request(method, talk.target, fields, body)

    def _transmit(self, pending: _Pending, interval_s: float, since: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - since >= GIVE_UP_S:
            pending.timer = None
            pending.answers.put_nowait(None)
            return
        self._send(pending.data, pending.target)
        # Timer A doubles without a limit, timer E up to T2 (RFC 3261 s.17.1).
        following = interval_s * 2 if pending.method == "INVITE" else min(interval_s * 2, T2_S)
        pending.timer = loop.call_later(interval_s, self._transmit, pending, following, since)

    async def _final_answer(
        self, pending: _Pending, on_progress: Callable[[str], None] | None
    ) -> Response | None:
        while True:
            response = await pending.answers.get()
            if response is None or response.status >= 200:
                return response
            if on_progress is not None and response.status > 100:
                on_progress(f"{response.status} {response.reason}")

    def _cancel(self, pending: _Pending, talk: Talk) -> None:
        """RFC 3261 s.9.1: the same branch and CSeq number; sent once, since nobody waits for it."""
        pending.stop()
        self._send(self._request(talk, "CANCEL", pending.branch, talk.cseq).encode(), talk.peer)

    # What comes in

    def _read_sip(self, wire: socket.socket) -> None:
        for data, source in _drain(wire):
            self.seen.append(data)
            try:
                message = parse(data)
                if isinstance(message, Request):
                    self._take_request(message, source)
                else:
                    self._take_response(message)
            except ParseError:
                # A keep-alive or garbage: not answered, and it stays in `seen`.
                continue

    def _read_rtp(self, wire: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for data, _ in _drain(wire):
            # One call at a time: `_take_invite` refuses a second one, so that all audio is that call's.
            for talk in self._talks.values():
                talk.ear.receive(data, now)

    def _take_response(self, response: Response) -> None:
        cseq = response.cseq
        pending = self._pending.get((response.via.branch or "", cseq.method))
        if pending is None:
            return
        if cseq.method != "INVITE":
            if response.status >= 200:
                pending.stop()
                pending.answers.put_nowait(response)
            return
        pending.stop()
        talk = self._talks.get(response.call_id)
        given_up = self._given_up.get(response.call_id)
        if response.status >= 300:
            self._send(self._ack_of_failure(pending, response), pending.target)
        elif response.status >= 200 and talk is not None:
            if not talk.answered.is_set():
                self._establish(talk, response)
            self._send(talk.ack, talk.peer)
        elif response.status >= 200 and given_up is not None:
            self._release(given_up, response)
        pending.answers.put_nowait(response)

    def _establish(self, talk: Talk, response: Response) -> None:
        talk.remote = str(response.to)
        talk.target = response.contacts[0].uri_text if response.contacts else talk.target
        talk.routes = tuple(str(route) for route in reversed(response.record_routes))
        talk.media = parse_media(response.body)
        branch = f"z9hG4bK{self.new_number():08x}{self.new_number():08x}"
        talk.ack = self._request(talk, "ACK", branch, response.cseq.number).encode()
        talk.answered.set()

    def _release(self, talk: Talk, response: Response) -> None:
        """A 200 that crossed our CANCEL is a call all the same: ACK, then BYE (RFC 3261 s.9.1, s.15)."""
        first = not talk.answered.is_set()
        if first:
            self._establish(talk, response)
        self._send(talk.ack, talk.peer)
        if first:
            self._ask(talk, "BYE")

    def _ack_of_failure(self, pending: _Pending, response: Response) -> bytes:
        """RFC 3261 s.17.1.1.3: the ACK belongs to the transaction of the INVITE."""
        invite = parse(pending.data)
        assert isinstance(invite, Request)
        fields = [
            ("Via", invite.get("Via") or ""),
            ("Max-Forwards", "70"),
            ("From", invite.get("From") or ""),
            ("To", response.get("To") or ""),
            ("Call-ID", invite.call_id),
            ("CSeq", f"{invite.cseq.number} ACK"),
        ]
        return Request("ACK", invite.uri, fields).encode()

    def _take_request(self, request: Request, source: Address) -> None:
        key = (request.via.branch or "", request.method, request.call_id)
        talk = self._talks.get(request.call_id)
        if request.method == "ACK":
            if talk is not None:
                _stop_repeating(talk)
            return
        if key in self._answers:
            self._send(self._answers[key], source)
            return
        if request.method == "INVITE" and request.to_tag is None:
            self._take_invite(request, source)
        elif request.method == "OPTIONS" and request.to_tag is None:
            self._answer(request, source, 200, "OK", [("Allow", ALLOW)])
        elif talk is None:
            self._answer(request, source, 481, "Call/Transaction Does Not Exist")
        elif request.method == "BYE":
            self._answer(request, source, 200, "OK")
            _stop_repeating(talk)
            talk.ended.set()
            self._talks.pop(talk.call_id, None)
        elif request.method == "CANCEL":
            self._take_cancel(request, source, talk)
        elif request.method in ("INVITE", "UPDATE"):
            self._take_offer(request, source, talk)
        elif request.method in ("OPTIONS", "INFO"):
            self._answer(request, source, 200, "OK")
        else:
            self._answer(request, source, 405, "Method Not Allowed", [("Allow", ALLOW)])

    def _take_invite(self, request: Request, source: Address) -> None:
        if self._talks:
            self._answer(request, source, 486, "Busy Here")
            return
        tag = f"{self.new_number():08x}"
        talk = Talk(
            self, request.call_id, f"{request.get('To')};tag={tag}", request.get("From") or "", source
        )
        talk.target = request.contacts[0].uri_text if request.contacts else ""
        talk.routes = tuple(str(route) for route in request.record_routes)
        talk.media = parse_media(request.body)
        talk.invite = request
        self._talks[talk.call_id] = talk
        self._answer(request, source, 180, "Ringing", [("Contact", self._contact())], tag=tag)
        loop = asyncio.get_running_loop()
        talk.repeat = loop.call_later(self._ring_s, self._pick_up, talk, request, source, tag)

    def _pick_up(self, talk: Talk, request: Request, source: Address, tag: str) -> None:
        self._answer(request, source, 200, "OK", self._session_fields(), self._offer(), tag)
        talk.invite = None
        talk.answered.set()
        self.incoming.put_nowait(talk)
        data = self._answers[request.via.branch or "", "INVITE", request.call_id]
        loop = asyncio.get_running_loop()
        talk.repeat = loop.call_later(T1_S, self._repeat_answer, talk, data, source, T1_S, loop.time())

    def _repeat_answer(self, talk: Talk, data: bytes, to: Address, interval_s: float, since: float) -> None:
        """RFC 3261 s.13.3.1.4: the 200 is repeated until its ACK comes."""
        loop = asyncio.get_running_loop()
        if loop.time() - since >= GIVE_UP_S:
            talk.ended.set()
            self._talks.pop(talk.call_id, None)
            return
        self._send(data, to)
        following = min(interval_s * 2, T2_S)
        talk.repeat = loop.call_later(following, self._repeat_answer, talk, data, to, following, since)

    def _take_cancel(self, request: Request, source: Address, talk: Talk) -> None:
        self._answer(request, source, 200, "OK")
        if talk.invite is not None:
            tag = talk.local.rpartition("tag=")[2]
            self._answer(talk.invite, source, 487, "Request Terminated", tag=tag)
            _stop_repeating(talk)
            talk.ended.set()
            self._talks.pop(talk.call_id, None)

    def _take_offer(self, request: Request, source: Address, talk: Talk) -> None:
        if request.body:
            talk.media = parse_media(request.body)
        if request.contacts:
            talk.target = request.contacts[0].uri_text
        body = self._offer() if request.body or request.method == "INVITE" else b""
        self._answer(request, source, 200, "OK", self._session_fields(bool(body)), body)

    def _answer(
        self,
        request: Request,
        source: Address,
        status: int,
        reason: str,
        extra: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        tag: str | None = None,
    ) -> None:
        _stamp_rport(request, source)
        to_tag = tag if tag is not None else (None if request.to_tag else f"{self.new_number():08x}")
        data = respond(request, status, reason, to_tag, extra or [], body).encode()
        self._answers[request.via.branch or "", request.method, request.call_id] = data
        if len(self._answers) > REMEMBERED_LIMIT:
            del self._answers[next(iter(self._answers))]
        self._send(data, source)

    # What goes out

    def _session_fields(self, with_sdp: bool = True) -> list[tuple[str, str]]:
        fields = [("Contact", self._contact()), ("Allow", ALLOW), ("Server", f"built-in phone {self.user}")]
        return [*fields, ("Content-Type", "application/sdp")] if with_sdp else fields

    def _contact(self) -> str:
        return f"<sip:{self.user}@{host_port(self.address)}>"

    def _offer(self) -> bytes:
        host, port = self.media_address
        family = "IP6" if ":" in host else "IP4"
        lines = (
            "v=0",
            f"o={self.user} 1 1 IN {family} {host}",
            "s=-",
            f"c=IN {family} {host}",
            "t=0 0",
            f"m=audio {port} RTP/AVP 0",
            "a=rtpmap:0 PCMU/8000",
            f"a=ptime:{PTIME_MS}",
            "a=sendrecv",
        )
        return "\r\n".join((*lines, "")).encode()

    def _send(self, data: bytes, to: Address) -> None:
        if self._sip is not None:
            with contextlib.suppress(OSError):
                self._sip.sendto(data, to)


def parse_media(sdp: bytes) -> Address | None:
    """Where the first m= line of `sdp` wants its packets; None without one, or with port 0 or no address."""
    host, port = "", 0
    seen_media = False
    for line in sdp.decode("utf-8", "replace").splitlines():
        kind, _, value = line.partition("=")
        words = value.split()
        if kind == "m":
            if seen_media:
                break
            seen_media = True
            port = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        elif kind == "c" and len(words) == 3:
            host = words[2]
    return (host, port) if host and port and host not in ("0.0.0.0", "::") else None


def _stamp_rport(request: Request, source: Address) -> None:
    """RFC 3581 s.4: the sender learns the port that its request came from."""
    _, *others = request.values("Via")
    via = request.via
    if via.param("rport") != "":
        return
    params = tuple((name, str(source[1]) if name.lower() == "rport" else value) for name, value in via.params)
    stamped = dataclasses.replace(via, params=(*params, ("received", source[0])))
    request.replace("Via", str(stamped))
    for other in others:
        request.add("Via", other)


def _stop_repeating(talk: Talk) -> None:
    if talk.repeat is not None:
        talk.repeat.cancel()
        talk.repeat = None


def _bind(host: str, port: int) -> socket.socket:
    wire = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        wire.setblocking(False)
        wire.bind((host, port))
    except OSError:
        wire.close()
        raise
    return wire


def _bind_even(host: str) -> socket.socket:
    """RFC 3550 s.11: RTP takes an even port."""
    for _ in range(100):
        wire = _bind(host, 0)
        if wire.getsockname()[1] % 2 == 0:
            return wire
        wire.close()
    raise OSError(f"no even UDP port is free on {host}")


def _drain(wire: socket.socket) -> list[tuple[bytes, Address]]:
    """What has arrived, at most 100 datagrams a turn."""
    datagrams: list[tuple[bytes, Address]] = []
    for _ in range(100):
        try:
            data, source = wire.recvfrom(65535)
        except BlockingIOError:
            break
        except OSError:
            # ICMP port unreachable of an earlier packet: the other side may come back.
            continue
        datagrams.append((data, (source[0], source[1])))
    return datagrams
