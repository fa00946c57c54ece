"""What would happen to a call: the very code that serves calls, without a wire (design.md s.4.3)."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count

from config.model import Config
from media.ports import PortPool
from media.relay import End, RelayEvent, Side, StreamCounters, StreamSpec
from sbc.anchor import LocalAnchor
from sbc.calls import Calls
from sbc.media_policy import media_ranges
from sbc.record import CallRecord
from sbc.sites import Sites
from signaling.errors import PeerError
from signaling.flow import Address, Flow, host_port
from signaling.message import Request
from signaling.uri import SipUri, TelUri, parse_uri


class NoRelay:
    """A relay that opens nothing."""

    def __init__(self) -> None:
        self.on_event: Callable[[RelayEvent], None] = lambda event: None

    def open(self, spec: StreamSpec) -> None:
        """Nothing to open."""

    def change(self, stream: int, side: Side, end: End) -> None:
        """Nothing to change."""

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        """Nothing to limit."""

    def close(self, stream: int) -> None:
        """Nothing to close."""

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        """No stream, no counters."""
        return _nothing()


async def _nothing() -> list[StreamCounters]:
    return []


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that would leave: where to, and its bytes."""

    flow: Flow
    data: bytes


@dataclass(frozen=True, slots=True)
class Simulation:
    """The INVITE as it would come, what would leave at once, and the record with every decision."""

    invite: bytes
    flow: Flow
    sent: tuple[Sent, ...]
    record: CallRecord


def simulate(
    config: Config,
    network: str,
    uri: str,
    source: str | None = None,
    caller: str = "caller",
    transport: str = "udp",
) -> Simulation:
    """Let a call to `uri` from `source` ("host" or "host:port") in `network` arrive at a copy of the SBC.

    Raises PeerError with a plain reason for arguments that name nothing.
    """
    if network not in config.networks:
        known = ", ".join(config.networks)
        raise PeerError(404, f"no network {network!r} in the configuration; there are: {known}", "no-network")
    listeners = [
        one for one in Sites(config).listeners if one.network == network and one.transport == transport
    ]
    remote = address_of(source) if source is not None else None
    for listener in listeners:
        if remote is None or (":" in remote[0]) == (":" in listener.local[0]):
            local = listener.local
            break
    else:
        raise PeerError(404, f"network {network!r} has no {transport} listener of that family", "no-listener")
    if remote is None:
        remote = ("2001:db8::1" if ":" in local[0] else "192.0.2.1", 5060)
    flow = Flow(network, transport, local, remote)
    invite = invite_from(flow, uri, caller)
    tokens = count(1)
    sent: list[Sent] = []
    records: list[CallRecord] = []
    anchor = LocalAnchor.of_config(
        config, PortPool(media_ranges(config), quarantine_s=0), NoRelay(), lambda: 0.0
    )
    calls = Calls(
        config,
        lambda data, to: sent.append(Sent(to, data)),
        anchor,
        wall=lambda: 0.0,
        token=lambda size: f"{next(tokens):0{2 * size}x}",
        on_record=records.append,
    )
    calls.receive(invite, flow, 0.0)
    record = next(iter(calls.live.values()), None) or (records[0] if records else None)
    if record is None:
        raise PeerError(400, "the call was refused before it became one", "refused")
    return Simulation(invite, flow, tuple(sent), record)


def address_of(text: str) -> Address:
    """ "host", "host:port" or "[host]:port" as an address; port 5060 unless given."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise PeerError(400, f"{text!r} is no address: the port must be 1 to 65535", "bad-source")
    return host, int(port) if port else 5060


def invite_from(flow: Flow, uri: str, caller: str) -> bytes:
    """The INVITE that a plain phone at the far end of `flow` would send."""
    parsed = parse_uri(uri)
    if not isinstance(parsed, SipUri | TelUri):
        raise PeerError(400, f"{uri!r} is no sip:, sips: or tel: URI", "bad-uri")
    host = flow.remote[0]
    family = "IP6" if ":" in host else "IP4"
    body = (
        f"v=0\r\no=- 1 1 IN {family} {host}\r\ns=-\r\nc=IN {family} {host}\r\nt=0 0\r\n"
        "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
    )
    domain = f"[{host}]" if ":" in host else host
    fields = [
        ("Via", f"SIP/2.0/{flow.transport.upper()} {host_port(flow.remote)};branch=z9hG4bKsimulated;rport"),
        ("Max-Forwards", "70"),
        ("From", f"<sip:{caller}@{domain}>;tag=simulated"),
        ("To", f"<{uri}>"),
        ("Call-ID", "simulated"),
        ("CSeq", "1 INVITE"),
        ("Contact", f"<sip:{caller}@{host_port(flow.remote)}>"),
        ("Content-Type", "application/sdp"),
    ]
    return Request("INVITE", uri, fields, body.encode()).encode()
