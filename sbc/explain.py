"""Why a call went as it did: decisions in words, the ladder, the media in figures, and a verdict (design.md s.4.2).

Pure: a record and the figures of its media in, an `Explanation` out, which is text for people and data for
programs.
"""

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from media.relay import Counters
from sbc.anchor import ADVERTISED, MediaReport
from sbc.decisions import Decision
from sbc.ladder import MAX_WIDTH, MIN_WIDTH, Column, Hidden, Step, hidden_between, hidden_text, ladder
from sbc.media_verdict import Finding, Side, Stream
from sbc.record import CallRecord, LegRecord, TriedTarget, media_json, printable
from sbc.verdict import Ending, Facts, findings
from signaling.errors import ParseError
from signaling.sdp.offer_answer import Line, describe
from signaling.sdp.parser import parse

_NOTHING = Counters()
# What a direction attribute lets its owner do: (send, receive). RFC 8866 s.6.7.
_WAYS = {"sendonly": (True, False), "recvonly": (False, True), "inactive": (False, False)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that can be said about one call."""

    record: CallRecord
    report: MediaReport | None
    facts: Facts
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    hidden: Mapping[str, Sequence[Hidden]]

    @property
    def verdict(self) -> tuple[str, ...]:
        """The sentences of the findings."""
        return tuple(finding.text for finding in self.findings)

    def text(self, width: int = 100, plain: bool = False) -> str:
        """For a terminal of `width` columns; `plain` keeps the drawing to ASCII."""
        record = self.record
        parts = [
            wrapped(_headline(self), width),
            section("Decisions", wrapped(decision_lines(record), width)),
            section("Ladder", self._ladder(width, plain)),
        ]
        if self.hidden:
            parts.append(section("Hidden by the border", hidden_text(self.hidden, width, plain)))
        parts.append(section("Media", wrapped(_media_lines(self.facts, self.report), width)))
        lines = (f"  {finding.text} [{finding.id}]" for finding in self.findings)
        parts.append(section("Verdict", wrapped("\n".join(lines), width)))
        return "\n\n".join(parts)

    def _ladder(self, width: int, plain: bool) -> str:
        left, right = column("A", self.record.leg("a")), column("B", _b_leg(self.record))
        return ladder(self.steps, left, right, width, plain, self.record.messages_left_out)

    def data(self) -> dict[str, object]:
        """For programs."""
        return {
            **self.record.to_json(),
            "media": None if self.report is None else media_json(self.report),
            "hidden": {
                title: [{"what": row.what, "sent": row.outside, "received": row.inside} for row in rows]
                for title, rows in self.hidden.items()
            },
            "verdict": list(self.verdict),
            "findings": [asdict(finding) for finding in self.findings],
        }


def explain(
    record: CallRecord, report: MediaReport | None, helped: Mapping[str, bool], now: float
) -> Explanation:
    """Explain `record`. `helped`: whether policy expects NAT at side "a" and "b"; `now` in seconds since the epoch."""
    streams = () if report is None else tuple(streams_of(record, report, helped))
    facts = Facts(ending_of(record, now), streams)
    steps = tuple(Step(one.at, one.leg, one.direction, one.summary) for one in record.messages)
    whole = [(one.leg, one.direction, one.data) for one in record.messages if one.data is not None]
    return Explanation(record, report, facts, tuple(findings(facts)), steps, hidden_between(whole))


def ending_of(record: CallRecord, now: float) -> Ending:
    """How the call stands."""
    target = record.target
    status, text = record.final_status, record.end_text
    if record.end_cause == "peer-rejected" and target is not None and target.status:
        status, text = target.status, target.reason
    return Ending(
        record.state,
        record.end_by,
        record.end_cause,
        text,
        status,
        "" if target is None else f"{target.trunk} {target.address}",
        record.lasted_s(now),
    )


def streams_of(record: CallRecord, report: MediaReport, helped: Mapping[str, bool]) -> list[Stream]:
    """The streams as the verdict sees them."""
    legs = {"A": record.leg("a"), "B": _b_leg(record)}
    described = {name: Described.of(leg) for name, leg in legs.items()}
    bound = _bound(record)
    counters = {one.id: one for one in report.counters}

    def side(name: str, signalled: str, told: str, way: str, came: Counters | None) -> Side:
        leg, said = legs[name], described[name]
        return Side(
            name,
            "" if leg is None else leg.network,
            signalled,
            came or _NOTHING,
            *_WAYS.get(way, (True, True)),
            helped=helped.get(name.lower(), False),
            formats=said.formats(signalled),
            origin=said.origin,
            told=told,
            bound=bound.get(told, ""),
            sip=_host_of(leg),
        )

    streams = []
    for line in report.lines:
        counted = counters.get(line.stream)
        from_a, from_b = (None, None) if counted is None else (counted.a, counted.b)
        streams.append(
            Stream(
                line.media,
                line.codec,
                side("A", line.a_signalled, line.a_local, line.a_direction, from_a),
                side("B", line.b_signalled, line.b_local, line.b_direction, from_b),
                counted=counted is not None,
            )
        )
    return streams


@dataclass(frozen=True, slots=True)
class Described:
    """What the last SDP of a party says: the host of its o= line, and its m= lines."""

    origin: str = ""
    lines: tuple[Line, ...] = ()

    @classmethod
    def of(cls, leg: LegRecord | None) -> "Described":
        """Of a leg; of one without SDP, or whose SDP cannot be read, nothing."""
        if leg is None or not leg.described:
            return cls()
        try:
            session = parse(leg.described)
            return cls(session.origin.address, tuple(describe(session)))
        except ParseError:
            return cls()

    def formats(self, signalled: str) -> tuple[tuple[int, str], ...]:
        """The payload types of the m= line whose port is that of "host:port", with their names."""
        port = signalled.rpartition(":")[2]
        for line in self.lines:
            if str(line.media.port) == port:
                return tuple((codec.payload, codec.name) for codec in line.codecs)
        return ()


def _host_of(leg: LegRecord | None) -> str:
    """The host that the SIP of a leg comes from."""
    return "" if leg is None else leg.remote.rpartition(":")[0].strip("[]")


def _bound(record: CallRecord) -> dict[str, str]:
    """By the address that a party was told, where we really listen; only where these are two (`advertise`)."""
    return {
        told: bound
        for decision in record.decisions
        if decision.rule == ADVERTISED
        for told, bound in [
            (dict(decision.compared).get("told", ""), dict(decision.compared).get("bound", ""))
        ]
    }


def _b_leg(record: CallRecord) -> LegRecord | None:
    """The leg that answered, else the last one that was tried."""
    target = record.target
    found = None if target is None else record.leg(target.leg)
    if found is None and len(record.legs) > 1:
        return record.legs[-1]
    return found


def column(name: str, leg: LegRecord | None) -> Column:
    """The head of a side of the ladder."""
    if leg is None:
        return Column(name, "(never called)")
    owner = leg.trunk or leg.network
    return Column(f"{name} {owner}", f"{leg.transport}:{leg.remote}")


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` columns, continued four columns further in than they begin."""
    lines = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        lines += textwrap.wrap(
            line,
            max(MIN_WIDTH, min(width, MAX_WIDTH)),
            subsequent_indent=" " * (indent + 4),
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def section(title: str, body: str) -> str:
    """A part of an explanation under its title."""
    return f"{title}\n{body or '  none'}"


def _headline(explanation: Explanation) -> str:
    record, ending = explanation.record, explanation.facts.ending
    begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.started))
    lines = [
        f"Call {record.id}: {printable(record.caller) or '?'} -> {printable(record.called) or '?'},"
        f" {ending.state}, came {begun}"
    ]
    lines += [
        f"  leg {leg.name:3} {leg.transport} {leg.remote} in {leg.network}"
        f"{f' (trunk {leg.trunk})' if leg.trunk else ''}, Call-ID {leg.call_id}"
        for leg in record.legs
    ]
    lines += [_tried(target, number) for number, target in enumerate(record.targets, 1)]
    if record.leaks:
        lines.append(f"  topology: {record.leaks} leaks were found by the guard (see the decisions)")
    return "\n".join(lines)


def _tried(target: TriedTarget, number: int) -> str:
    result = f"{target.status} {target.reason}".strip() if target.status else target.rule or "waiting"
    took = "" if target.ended is None else f" after {target.ended - target.started:.3f} s"
    return f"  server {number}: {target.trunk} {target.transport}:{target.address} as {target.user}: {result}{took}"


def decision_lines(record: CallRecord) -> str:
    """What was decided, in order, a line each."""
    lines = [_decision_line(decision, record.started) for decision in record.decisions]
    if record.decisions_left_out:
        lines.append(f"  {record.decisions_left_out} further decisions were not kept")
    return "\n".join(lines)


def _decision_line(decision: Decision, begin: float) -> str:
    compared = ", ".join(f"{what} {printable(value)}" for what, value in decision.compared)
    because = f" ({compared})" if compared else ""
    return (
        f"  {decision.at - begin:8.3f}  {decision.stage:10} {printable(decision.outcome)}"
        f"  [{decision.rule}]{because}"
    )


def _media_lines(facts: Facts, report: MediaReport | None) -> str:
    if report is None or not report.lines:
        return "  no media was agreed"
    lines = []
    for stream, line in zip(facts.streams, report.lines, strict=True):
        lines.append(f"  {stream.media} {stream.codec}".rstrip())
        lines.append(_direction(stream.a, line.a_local, "A -> B", stream.counted))
        lines.append(_direction(stream.b, line.b_local, "B -> A", stream.counted))
    return "\n".join(lines)


def _direction(side: Side, local: str, title: str, counted: bool) -> str:
    head = f"    {title}: signalled {side.signalled or 'nothing'}, our port {local}"
    if not counted:
        return f"{head}, no figures"
    figures = side.counters
    source = "none" if figures.source is None else f"{figures.source[0]}:{figures.source[1]}"
    if not figures.packets:
        extra = _extras(figures)
        return f"{head}, 0 packets{extra}"
    mos = "" if figures.mos is None else f", MOS {figures.mos:.1f}"
    round_trip = "" if figures.rtt_ms is None else f", round trip {figures.rtt_ms:.0f} ms"
    by_kernel = f", {figures.in_kernel} of them by the kernel" if figures.in_kernel else ""
    return (
        f"{head}, source {source}\n"
        f"            {figures.packets} packets ({figures.forwarded} forwarded{by_kernel}),"
        f" {figures.lost} lost ({side.loss:.1%}),"
        f" jitter {figures.jitter_ms:.1f} ms (max"
        f" {figures.max_jitter_ms:.1f}){mos}{round_trip}{_extras(figures)}"
    )


def _extras(figures: Counters) -> str:
    """The counters that are zero on a good day."""
    named = (
        ("reordered", figures.reordered),
        ("sequence resets", figures.resets),
        ("SSRC changes", figures.ssrc_changes),
        ("from strangers", figures.strangers),
        ("muted", figures.muted),
        ("malformed", figures.malformed),
        ("withheld", figures.withheld),
        ("dropped in our own queue", figures.dropped),
        ("not authentic", figures.unauthentic),
    )
    return "".join(f", {value} {name}" for name, value in named if value)
