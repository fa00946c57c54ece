"""One offer and its answers: what an m= line becomes on both sides (RFC 3264). The pure part of the anchor."""

from collections.abc import Mapping
from dataclasses import dataclass

from config.frozen import frozen
from media.relay import End, Learn, PortPair, Side
from media.session import Limits, Stream
from nat.address import is_credible
from sbc.decisions import Decision
from sbc.media_policy import trust
from signaling.errors import UsageError
from signaling.flow import host_port
from signaling.sdp.offer_answer import EVENTS, Line, Refusal, Use, direction
from signaling.sdp.rewrite import Section
from signaling.sdp.session import Session, first, normal_host

# Below are the ports of services, where a stream of datagrams is an attack: they get media once they have sent some.
FIRST_PORT = 1024


@frozen
class Party:
    """One side of an offer/answer exchange.

    `leg` is unique in the call ("a", "b1", "b2"), `network` the configured network, `peer` the host that the
    signalling of this leg comes from (for learning), `nat` whether policy expects NAT there.
    """

    leg: str
    network: str
    peer: str | None = None
    nat: bool = False


@frozen
class Plan:
    """The stream that an offered line will become."""

    id: int
    pairs: Mapping[Side, PortPair]
    hosts: Mapping[Side, str]


@dataclass(slots=True, eq=False)
class Exchange:
    """An offer and its answers. `asked` of its lines came from the source, the rest fill up what it left out.
    `fresh` are the ports taken for it that no stream uses (yet).

    It outlives the first answer: a 183 and a 200, maybe of different phones behind a forking proxy, answer one
    offer (RFC 3261 s.13.2.2.4), and each may accept other lines of it.
    """

    source: Party
    target: Party
    session: Session
    asked: int
    lines: list[Line]
    plans: list[Plan | None]
    mux: list[bool]
    fresh: set[PortPair]
    answered: bool = False


def side_of(leg: str) -> Side:
    """The caller's leg is "a"; all others are side b, one at a time."""
    return "a" if leg == "a" else "b"


def written(line: Line, plan: Plan, side: Side, offered: Line | None, rtcp_mux: bool) -> Section:
    """A line in use, as we write it for the party on `side`; `offered` is that party's line if it is an answer."""
    media, pair = line.media, plan.pairs[side]
    if offered is None:
        proto = "udptl" if line.use is Use.UDPTL else media.proto.upper()
        way = direction(line.sends, line.receives)
    else:
        # RFC 3264 s.6.1: an answer stays within what was offered, whatever the other side wrote.
        media, proto = offered.media, offered.media.proto
        way = direction(line.sends and offered.receives, line.receives and offered.sends)
    if line.use is Use.UDPTL and way == "sendrecv":
        way = ""  # T.38 gateways do not expect the attribute
    rtcp = pair.rtcp if line.rtcp_said and not (rtcp_mux and offered is not None) else None
    return Section(
        media.kind, pair.rtp, proto, line.formats, plan.hosts[side], line.kept, way, rtcp, rtcp_mux
    )


def muxed(stream: Stream | None, side: Side) -> bool:
    """Whether an end uses one port for RTP and RTCP."""
    return stream is not None and stream.end(side).rtcp_mux


def origin_of(session: Session) -> str:
    """The o= line as it stands: any change of it means a new description (RFC 3264 s.8)."""
    return first(session.lines, "o") or ""


def signalled(line: Line) -> str:
    """What a party said of its own address, for people."""
    if line.connection is None:
        return "-"
    return host_port((line.connection.host, line.media.port))


def talking(line: Line) -> str:
    """The codec that the first format of an answer means (RFC 3264 s.6.1); T.38 for fax."""
    if line.use is Use.UDPTL:
        return "T.38"
    return next((codec.name for codec in line.codecs if codec.name.upper() != EVENTS), "")


def nat_decision(party: Party, line: Line, learn: Learn, expect: str | None, why: str) -> Decision:
    """Whose packets an end believes."""
    compared = (
        ("leg", party.leg),
        ("signalled", signalled(line)),
        ("SIP source", party.peer or "unknown"),
        ("nat", "far-end" if party.nat else "none"),
    )
    outcome = f"{why}; learn {learn}, expect {expect or 'anybody'}"
    return Decision("nat", f"networks.{party.network}.nat", compared, outcome)


@frozen
class Earlier:
    """What was in force where a new stream is made: the stream there, the side whose party is another one now,
    and the sides whose o= line has changed."""

    stream: Stream | None
    vacant: Side | None
    renewed: Mapping[Side, bool]


def join(
    exchange: Exchange,
    place: int,
    answered: Line,
    earlier: Earlier,
    events_up: frozenset[str],
    decisions: list[Decision],
) -> Stream | Refusal | None:
    """The stream that an offered line and its answer make; None when the answerer does not want it. `events_up` as in
    `MediaPolicy`."""
    plan, offered = exchange.plans[place], exchange.lines[place]
    if plan is None or answered.use is Use.DISABLED:
        return None
    if answered.use is Use.REFUSED:
        return answered.refusal
    offerer, answerer = side_of(exchange.source.leg), side_of(exchange.target.leg)
    there = answered.connection
    if answered.use is not offered.use or there is None:
        return Refusal("The answer is of another kind than the offer", "sdp-kind-changed")
    family = 6 if ":" in plan.hosts[answerer] else 4
    if there.family != family and not (there.named or there.unspecified):
        return Refusal("The answer is of another address family than the offer", "media-family")
    stream = earlier.stream
    if stream is not None and stream.id != plan.id:
        stream = None
    earlier = Earlier(stream, earlier.vacant, earlier.renewed)
    forth, back = offered.sends and answered.receives, answered.sends and offered.receives
    ours = End(plan.pairs[offerer], rtcp_mux=offered.rtcp_mux, receive=forth, send=back)
    mux = exchange.mux[place] and answered.rtcp_mux
    theirs = End(plan.pairs[answerer], rtcp_mux=mux, receive=back, send=forth)
    ends = {
        offerer: aimed(ours, exchange.source, offered, answered, earlier, events_up, decisions),
        answerer: aimed(theirs, exchange.target, answered, offered, earlier, events_up, decisions),
    }
    said = {offerer: signalled(offered), answerer: signalled(answered)}
    a, b = ends["a"], ends["b"]
    return Stream(
        plan.id,
        "udptl" if answered.use is Use.UDPTL else "rtp",
        offered.media.kind,
        talking(answered),
        a,
        b,
        Limits(),
        (said["a"], said["b"]),
        (
            stream.sources[0] if stream is not None and stream.a.epoch == a.epoch else None,
            stream.sources[1] if stream is not None and stream.b.epoch == b.epoch else None,
        ),
    )


def aimed(
    end: End,
    party: Party,
    own: Line,
    other: Line,
    earlier: Earlier,
    events_up: frozenset[str],
    decisions: list[Decision],
) -> End:
    """The end with its peer: where packets go and whose are believed. `own` and `other` are the m= lines."""
    connection = own.connection
    if connection is None:
        raise UsageError("only a line in use has a peer")
    side = side_of(party.leg)
    before = None if earlier.stream is None else earlier.stream.end(side)
    same_party = side != earlier.vacant
    if connection.unspecified and same_party and before is not None:
        # Hold of RFC 2543: it says nothing of where the peer is, so that stays.
        learn, expect, remote, rtcp = before.learn, before.expect, before.remote, before.remote_rtcp
        why = "on hold, as before"
    else:
        believed = trust(connection, party.peer, party.nat)
        learn, expect, why = believed.learn, believed.expect, believed.why
        reachable = believed.reachable and own.media.port >= FIRST_PORT
        remote = (connection.host, own.media.port) if reachable else None
        rtcp = remote if end.rtcp_mux else own.rtcp if reachable else None
        if rtcp is not None and rtcp[0] != connection.host and not is_credible(rtcp[0], connection.host):
            rtcp = None
    epoch = 0
    if before is not None:
        moved = (before.remote, before.expect, before.local) != (remote, expect, end.local)
        # Behind NAT a new description may mean a new binding, though it reads the same.
        behind_nat = party.nat and (remote is None or expect != remote[0])
        again = earlier.renewed[side] and behind_nat
        epoch = before.epoch + (moved or again or not same_party)
    if before is None or (before.learn, before.expect, before.remote) != (learn, expect, remote):
        decisions.append(nat_decision(party, own, learn, expect, why))
    # A party sends with the payload types that the other side described (RFC 3264 s.5.1).
    codecs = tuple((codec.payload, codec.name, codec.clock) for codec in other.codecs)
    # Where the SIP of a party comes from it is; c= can be anybody's, and must answer to be sent to for long.
    proven = () if party.peer is None else (normal_host(party.peer),)
    return End(
        end.local,
        remote,
        rtcp,
        end.rtcp_mux,
        learn,
        expect,
        end.receive,
        end.send,
        codecs,
        epoch,
        proven,
        events_up=party.network in events_up,
    )
