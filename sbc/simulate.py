"""What would happen to a call: the very code that serves calls, without a wire (design.md s.4.3)."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from config.model import Config
from media.ports import PortPool
from media.relay import End, RelayEvent, Side, StreamCounters, StreamSpec
from sbc.anchor import LocalAnchor
from sbc.binding import Binding, identity_of
from sbc.calls import Calls
from sbc.explain import decision_lines, ending_of, section, wrapped
from sbc.media_policy import MediaPolicy, simulated_ranges
from sbc.names import Found
from sbc.record import CallRecord
from sbc.routing import SIP_PORT
from sbc.sites import Sites
from sbc.trunks import Lookup, Trunks
from sbc.verdict import judge_ending
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
    """The INVITE as it would come, what would leave at once, and the record with every decision.

    `names`: what stands for the servers that the configuration has by name. `asked`: whether the DNS said so; else
    each has one address that is kept for documentation (RFC 5737, RFC 3849).
    """

    invite: bytes
    flow: Flow
    sent: tuple[Sent, ...]
    record: CallRecord
    names: tuple[Found, ...] = ()
    asked: bool = False

    def text(self, width: int = 100) -> str:
        """For a terminal: what was decided and why, what would come of it, and the messages of both legs."""
        record, flow = self.record, self.flow
        parts = [
            wrapped(
                f"A call from {record.caller or '?'} to {record.called or '?'} comes by {flow.transport} from"
                f" {host_port(flow.remote)} in network {flow.network}. Nothing is sent.",
                width,
            ),
            section("Decisions", wrapped(decision_lines(record), width)),
        ]
        if self.names:
            parts.append(section("Names of servers", wrapped("\n".join(self._name_lines()), width)))
        parts.append(section("Outcome", wrapped(f"  {self.outcome()}", width)))
        parts.append(_message("<", "A ->", flow, self.invite))
        parts.extend(_message(">", self._receiver(one), one.flow, one.data) for one in self.sent)
        return "\n\n".join(parts)

    def outcome(self) -> str:
        """What comes of the call, in a sentence."""
        target = self.record.target
        if self.record.ended_at is not None or target is None:
            return judge_ending(ending_of(self.record, self.record.started))
        return (
            f"Passed to {target.trunk} in network {target.network}, by {target.transport} to {target.address},"
            f" as {target.user}."
        )

    def _name_lines(self) -> Iterator[str]:
        for found in self.names:
            lookup = found.lookup
            shown = ", ".join(f"{transport} {host_port(address)}" for transport, address in found.hops)
            if not self.asked:
                yield (
                    f"  trunk {lookup.trunk}: {lookup.host} was not looked up; {shown} stands for it here, and"
                    " --resolve asks the DNS"
                )
            else:
                yield f"  trunk {lookup.trunk}: {lookup.host} is {shown or f'not found: {found.why}'}"

    def _receiver(self, sent: Sent) -> str:
        return (
            "-> A"
            if sent.flow.network == self.flow.network and sent.flow.remote == self.flow.remote
            else "-> B"
        )


def _message(mark: str, who: str, flow: Flow, data: bytes) -> str:
    lines = data.decode("utf-8", "backslashreplace").splitlines()
    title = f"{who}  {flow.transport} {host_port(flow.remote)} ({flow.network})"
    return "\n".join((title, *(f"{mark} {line}".rstrip() for line in lines)))


def lookups_of(config: Config) -> tuple[Lookup, ...]:
    """The servers of trunks that a configuration has by name."""
    return Trunks(config).lookups


def stand_ins(config: Config) -> list[Found]:
    """An address out of those for documentation for each server that has a name."""
    found = []
    for number, lookup in enumerate(lookups_of(config), 1):
        network = config.networks[lookup.network]
        ipv4 = any(":" not in address for address in network.sip_addresses)
        host = f"198.51.100.{number % 254 + 1}" if ipv4 else f"2001:db8:ffff::{number:x}"
        transports = [listen.transport for listen in network.listen]
        transport = lookup.transport or ("udp" if "udp" in transports or not transports else transports[0])
        found.append(Found(lookup, ((transport, (host, lookup.port or SIP_PORT)),)))
    return found


def simulate(
    config: Config,
    network: str,
    uri: str,
    source: str | None = None,
    caller: str = "caller",
    transport: str = "udp",
    names: Sequence[Found] | None = None,
    registered: Sequence[str] = (),
) -> Simulation:
    """Let a call to `uri` from `source` ("host" or "host:port") in `network` arrive at a copy of the SBC.

    `names` is what the DNS says of `lookups_of(config)`; without it `stand_ins` takes its place. `registered` are users
    that have a phone: that of the caller is where the call comes from, the others have an address for documentation.
    Raises PeerError with a plain reason for arguments that name nothing.
    """
    flow = flow_from(config, network, source, transport)
    invite = invite_from(flow, uri, caller)
    tokens = count(1)
    sent: list[Sent] = []
    records: list[CallRecord] = []
    pool = PortPool(simulated_ranges(config), quarantine_s=0)
    anchor = LocalAnchor(pool, NoRelay(), MediaPolicy.of_config(config), lambda: 0.0, session_id=lambda: 1)
    calls = Calls(
        config,
        lambda data, to: sent.append(Sent(to, data)),
        anchor,
        wall=lambda: 0.0,
        token=lambda size: f"{next(tokens):0{2 * size}x}",
        on_record=records.append,
    )
    known = tuple(stand_ins(config) if names is None else names)
    for found in known:
        if found.hops:
            calls.trunks.resolved(found.lookup, found.hops, 0.0)
        else:
            calls.trunks.unresolved(found.lookup, found.why)
    for number, user in enumerate(registered, 1):
        calls.phones.locations.put(phone_of(config, user, flow if user == caller else None, number))
    calls.receive(invite, flow, 0.0)
    record = next(iter(calls.live.values()), None) or (records[0] if records else None)
    if record is None:
        raise PeerError(400, "the call is asked for credentials before it becomes one", "refused")
    return Simulation(invite, flow, tuple(sent), record, known, asked=names is not None)


def flow_from(config: Config, network: str, source: str | None, transport: str) -> Flow:
    """The way that a call from `source`, or from an address for documentation, comes by."""
    if network not in config.networks:
        why = f"no network {network!r} in the configuration; there are: {', '.join(config.networks)}"
        if network in config.trunks:
            there = config.trunks[network].network
            why = f"{network!r} is a trunk: give its network, --from {there}, and --source with its address"
        raise PeerError(404, why, "no-network")
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
    return Flow(network, transport, local, remote, connection=0 if transport == "udp" else 1)


def phone_of(config: Config, user: str, flow: Flow | None, number: int) -> Binding:
    """A phone that a user might have registered: the one at the far end of `flow`, if phones are in that network."""
    if config.phones is None:
        raise PeerError(400, "the configuration has no phones, so nobody can have registered", "no-phones")
    if flow is None or flow.network != config.phones.network:
        listeners = [one for one in Sites(config).listeners if one.network == config.phones.network]
        if not listeners:
            raise PeerError(404, f"network {config.phones.network!r} has no listener", "no-listener")
        local = listeners[0].local
        host = f"2001:db8:1::{number:x}" if ":" in local[0] else f"203.0.113.{number % 250 + 1}"
        flow = Flow(config.phones.network, listeners[0].transport, local, (host, SIP_PORT))
    contact = f"sip:{user}@{host_port(flow.remote)}"
    return Binding(user, identity_of(contact), contact, f"token-{user}", flow, 3600.0, "simulated", 1)


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
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError as error:
        raise PeerError(
            400, f"{text!r} is no address: {host!r} is neither IPv4 nor IPv6", "bad-source"
        ) from error
    return host, int(port) if port else SIP_PORT


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
