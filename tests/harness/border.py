"""The SBC's core between scripted user agents, in virtual time and without a socket.

An `Agent` builds and reads its own messages (from text, not with the builders under test), so that what it
accepts is what the RFC says and not what we happen to send.
"""

import re
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from config.load import load
from config.model import Config
from media.ports import PortPool
from sbc.anchor import LocalAnchor
from sbc.calls import Calls
from sbc.media_policy import media_ranges
from sbc.record import CallRecord
from signaling.flow import Address, Flow, host_port
from signaling.message import Message, Request, Response
from signaling.parser import parse
from tests.harness.relay import FakeRelay
from tests.harness.rest import begun

M = TypeVar("M", bound=Message)

CONFIG = """
networks:
  public:
    address: 203.0.113.10
    listen: [udp:5060, tcp:5060]
    media_ports: 20000-20999
    domain: sbc.public.example
  private:
    address: 10.0.0.1
    listen: [udp:5060, tcp:5060]
    media_ports: 30000-30999
    domain: sbc.private.example
trunks:
  carrier: {network: public, servers: ["sip:198.51.100.7"], from: [198.51.100.0/24]}
  pbx: {network: private, servers: ["sip:10.0.0.20"], from: [10.0.0.0/24]}
routes:
  - {from: public, to: pbx}
  - {from: pbx, to: carrier}
limits: {max_calls: 200}
"""


def audio(
    host: str, port: int = 4000, direction: str = "sendrecv", codec: str = "0 PCMU/8000", version: int = 1
) -> str:
    """An SDP with one audio line, as a phone at `host` would write it."""
    payload, name = codec.split(" ", 1)
    family = "IP6" if ":" in host else "IP4"
    return (
        f"v=0\r\no=phone 7391 {version} IN {family} {host}\r\ns=phone call\r\nc=IN {family} {host}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {payload} 101\r\na=rtpmap:{payload} {name}\r\n"
        f"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na={direction}\r\n"
    )


def without_standing(config: Config) -> Config:
    """The same without what goes on for ever: phones, registrations of ours, pings."""
    quiet = {"check": None, "register_": None}
    trunks = {name: trunk.model_copy(update=quiet) for name, trunk in config.trunks.items()}
    return config.model_copy(update={"phones": None, "trunks": trunks})


class Border:
    """`Calls` with everything around it, but the wire, real."""

    def __init__(
        self, config: str = CONFIG, changes: Callable[[str], str] = str, secret: bytes | None = None
    ) -> None:
        self.config = load(changes(config))
        self.now = 1000.0
        self.relay = FakeRelay()
        self.pool = PortPool(media_ranges(self.config), quarantine_s=0)
        self._tokens = count(1)
        self.records: list[CallRecord] = []
        self.sent: list[tuple[bytes, Flow]] = []
        self.agents: dict[tuple[str, Address], Agent] = {}
        self.lose: Callable[[bytes, Flow], bool] = lambda data, flow: False
        self.anchor = LocalAnchor.of_config(self.config, self.pool, self.relay, lambda: self.now)
        self.calls = Calls(
            self.config,
            self._send,
            self.anchor,
            wall=lambda: 1_700_000_000 + self.now,
            token=self._token,
            on_record=self.records.append,
            secret=secret,
        )
        self.relay.on_event = lambda event: self.calls.relay_event(event, self.now)
        begun(self)

    def _token(self, size: int) -> str:
        return f"{next(self._tokens):0{2 * size}x}"

    def agent(self, network: str, address: str, transport: str = "udp") -> "Agent":
        """A user agent at `address` ("host:port") that talks to our listener on `network`."""
        host, _, port = address.rpartition(":")
        remote = (host.strip("[]"), int(port))
        return Agent(self, network, remote, transport)

    def _send(self, data: bytes, flow: Flow) -> None:
        self.sent.append((data, flow))
        if self.lose(data, flow):
            return
        agent = self.agents.get((flow.network, flow.remote))
        if agent is not None:
            agent.inbox.append(parse(data))

    def advance(self, seconds: float) -> None:
        """Let time pass, timers on time."""
        end = self.now + seconds
        while (due := self.calls.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.calls.handle_timer(self.now)
        self.now = end

    def at_rest(self) -> None:
        """Nothing is left when every timer of RFC 3261 has run out."""
        self.advance(70)
        calls, board = self.calls, self.calls.board
        left = {name: number for name, number in calls.leftovers().items() if number}
        assert left == {}, left
        assert self.relay.streams == {}
        assert (len(board.owners), board.in_progress, +board.on_trunk) == (0, 0, Counter())
        assert calls.next_timer() is None

    def wind_up(self) -> None:
        """What the test left going is hung up, though nobody answers that: nothing may hold it."""
        self.calls.hang_up(self.now)
        self.calls.reload(without_standing(self.calls.config), self.now)
        self.at_rest()


class Agent:
    """One scripted user agent. `inbox` holds what it got and has not looked at."""

    def __init__(self, border: Border, network: str, address: Address, transport: str) -> None:
        self.border = border
        self.address = address
        self.transport = transport
        self.inbox: list[Message] = []
        listener = next(
            one
            for one in border.calls.sites.listeners
            if one.network == network
            and one.transport == transport
            and (":" in one.local[0]) == (":" in address[0])
        )
        self.sbc = listener.local
        self.flow = Flow(network, transport, listener.local, address, 0 if transport == "udp" else 7)
        self.cseq = 100
        self._serial = count(1)
        self.host = host_port(address)
        self.tag = f"{network}tag{address[1]}"
        self.call_id = f"{network}-call-{address[1]}@{address[0]}"
        border.agents[network, address] = self

    # -- sending

    def raw(self, text: str | bytes) -> None:
        """Put bytes on the wire."""
        data = text.encode() if isinstance(text, str) else text
        self.border.calls.receive(data, self.flow, self.border.now)

    def branch(self) -> str:
        return f"z9hG4bK{self.tag}{next(self._serial)}"

    def request(
        self,
        method: str,
        *,
        to: str = "200",
        uri: str | None = None,
        to_header: str | None = None,
        from_header: str | None = None,
        cseq: int | None = None,
        branch: str | None = None,
        fields: str = "",
        body: str = "",
        content_type: str = "application/sdp",
    ) -> Request:
        """Send a request and return it as sent."""
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        target = uri or f"sip:{to}@{host_port(self.sbc)}"
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/{self.transport.upper()} {self.host};branch={branch or self.branch()};rport",
            "Max-Forwards: 70",
            "From: " + (from_header or f'"Agent" <sip:100@{self.address_text}>;tag={self.tag}'),
            "To: " + (to_header or f"<{target}>"),
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:agent@{self.host}>",
            "User-Agent: Scripted/1.0",
        ]
        if fields:
            lines.append(fields.strip())
        if body:
            lines.append(f"Content-Type: {content_type}")
        lines.append(f"Content-Length: {len(body.encode())}")
        text = "\r\n".join(lines) + "\r\n\r\n" + body
        self.raw(text)
        sent = parse(text.encode())
        assert isinstance(sent, Request)
        return sent

    @property
    def address_text(self) -> str:
        host = self.address[0]
        return f"[{host}]" if ":" in host else host

    def invite(self, to: str = "200", sdp: str | None = None, fields: str = "") -> Request:
        """An INVITE with an offer (a plain audio one unless given; empty for a late offer)."""
        body = audio(self.address[0]) if sdp is None else sdp
        fields = (fields + "\r\nAllow: INVITE, ACK, CANCEL, BYE, UPDATE, INFO").strip()
        return self.request("INVITE", to=to, body=body, fields=fields)

    def inside(
        self,
        method: str,
        of: Request | Response,
        *,
        body: str = "",
        fields: str = "",
        cseq: int | None = None,
        content_type: str = "application/sdp",
        branch: str | None = None,
    ) -> Request:
        """A request in the dialog that `of` (an INVITE that came, or the answer to ours) belongs to."""
        contact = of.contacts[0].uri_text
        if isinstance(of, Request):
            self.call_id = of.call_id
            return self.request(
                method,
                uri=contact,
                to_header=of.get("From"),
                from_header=f"{of.get('To')};tag={self.tag}" if of.to.tag is None else of.get("To"),
                body=body,
                fields=fields,
                cseq=cseq,
                content_type=content_type,
                branch=branch,
            )
        self.call_id = of.call_id
        return self.request(
            method,
            uri=contact,
            to_header=of.get("To"),
            from_header=of.get("From"),
            body=body,
            fields=fields,
            cseq=cseq,
            content_type=content_type,
            branch=branch,
        )

    def ack(self, answer: Response, sdp: str = "") -> Request:
        """ACK a 2xx."""
        return self.inside("ACK", answer, cseq=answer.cseq.number, body=sdp)

    def cancel(self, invite: Request) -> None:
        """CANCEL a pending INVITE (RFC 3261 s.9.1)."""
        self.raw(
            f"CANCEL {invite.uri} SIP/2.0\r\nVia: {invite.get('Via')}\r\nMax-Forwards: 70\r\n"
            f"From: {invite.get('From')}\r\nTo: {invite.get('To')}\r\nCall-ID: {invite.call_id}\r\n"
            f"CSeq: {invite.cseq.number} CANCEL\r\nContent-Length: 0\r\n\r\n"
        )

    def answer(
        self,
        request: Request,
        status: int,
        reason: str = "Reason",
        *,
        sdp: str = "",
        tag: str | None = None,
        fields: str = "",
    ) -> None:
        """Answer a request that came."""
        to = request.get("To") or ""
        if request.to.tag is None and status > 100:
            to += f";tag={tag or self.tag}"
        lines = [f"SIP/2.0 {status} {reason}"]
        lines += [f"Via: {value}" for value in request.get_all("Via")]
        lines += [f"From: {request.get('From')}", f"To: {to}", f"Call-ID: {request.call_id}"]
        lines += [f"CSeq: {request.get('CSeq')}", f"Contact: <sip:agent@{self.host}>", "Server: Scripted/2.0"]
        lines.append("Allow: INVITE, ACK, CANCEL, BYE, UPDATE, INFO")
        if fields:
            lines.append(fields.strip())
        if sdp:
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(sdp.encode())}")
        self.raw("\r\n".join(lines) + "\r\n\r\n" + sdp)

    # -- receiving

    def next(self, *, trying: bool = False) -> Message:
        """The next message; 100s are passed over unless asked for."""
        while self.inbox:
            message = self.inbox.pop(0)
            if trying or not (isinstance(message, Response) and message.status == 100):
                return message
        raise AssertionError(f"{self.host} got nothing")

    def expect(self, method: str) -> Request:
        """The next message is this request."""
        message = self.next()
        assert isinstance(message, Request), f"wanted {method}, got {message.encode()!r}"
        assert message.method == method, f"wanted {method}, got {message.encode()!r}"
        return message

    def expect_answer(self, status: int, method: str | None = None) -> Response:
        """The next message is a response with this status."""
        message = self.next()
        assert isinstance(message, Response), f"wanted {status}, got {message.encode()!r}"
        assert message.status == status, f"wanted {status}, got {message.encode()!r}"
        assert method is None or message.cseq.method == method
        return message

    def nothing(self) -> None:
        """Nothing came."""
        left = [m for m in self.inbox if not (isinstance(m, Response) and m.status == 100)]
        assert left == [], [m.encode() for m in left]


def pair(border: Border) -> tuple[Agent, Agent]:
    """A caller in the public network and the server of the PBX."""
    return border.agent("public", "203.0.113.77:5070"), border.agent("private", "10.0.0.20:5060")


def calling(changes: Callable[[str], str] = str) -> tuple[Border, Agent, Agent, Request]:
    """A border, a caller, whom it calls, and the INVITE that came there."""
    border = Border(changes=changes)
    alice, bob = pair(border)
    alice.invite()
    return border, alice, bob, bob.expect("INVITE")


def talking(changes: Callable[[str], str] = str) -> tuple[Border, Agent, Agent, Response, Request]:
    """The same when the call stands: the answer that the caller got, and the INVITE."""
    border = Border(changes=changes)
    alice, bob = pair(border)
    return border, alice, bob, *established(border, alice, bob)


def picked_up(alice: Agent, bob: Agent, invite: Request, tag: str | None = None) -> Response:
    """Bob answers the INVITE, and everybody gets an ACK: the answer that alice got."""
    bob.answer(invite, 200, "OK", sdp=audio(bob.address[0], 4002), tag=tag)
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    return answer


def established(border: Border, alice: Agent, bob: Agent) -> tuple[Response, Request]:
    """A call from alice to bob, answered and acknowledged: the answer alice got, the INVITE bob got."""
    alice.invite()
    invite = bob.expect("INVITE")
    bob.answer(invite, 180, "Ringing")
    alice.expect_answer(180)
    answer = picked_up(alice, bob, invite)
    bob.nothing()
    return answer, invite


def hang_up(border: Border, alice: Agent, bob: Agent, answer: Response) -> None:
    """Alice ends the call and nothing is left of it."""
    alice.inside("BYE", answer)
    bye = bob.expect("BYE")
    bob.answer(bye, 200, "OK")
    alice.expect_answer(200, "BYE")
    border.at_rest()


def sdp_field(message: Message, pattern: str) -> str:
    """The first group of a pattern in the body."""
    found = re.search(pattern, message.body.decode())
    assert found is not None, message.body
    return found.group(1)
