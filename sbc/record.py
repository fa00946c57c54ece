"""The record of a call: what came, what was decided and why, what left, how it ended.

Kept for every call in progress and for the last ones that ended; the CDR, `sbc calls` and `sbc explain` are made
from it. A held call has to stay small, so everything is bounded and what did not fit is counted.
"""

import sys
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

from config.frozen import frozen
from sbc.anchor import MediaReport
from sbc.decisions import Decision
from sbc.log import redact
from sbc.routing import Target
from signaling.errors import ParseError
from signaling.exchange import KNOWN
from signaling.flow import Flow, host_port
from signaling.message import Request, Response
from signaling.phrases import SIP

MAX_DECISIONS = 96
MAX_TARGETS = 48
MAX_LEGS = 48
MAX_TEXT = 256
"""Longest text of a peer that is kept, in characters."""
MAX_BYTES = 8192
"""Bytes kept of one message in the trace mode `full`."""
MAX_SDP_LINES = 8

T = TypeVar("T")
TraceMode = Literal["off", "lines", "full"]
State = Literal["ringing", "up", "ended", "failed"]


@frozen
class TracedMessage:
    """One message: `at` seconds since the epoch, "<" came to us, ">" left us. `data` in the mode `full` only."""

    at: float
    leg: str
    direction: Literal["<", ">"]
    summary: str
    data: bytes | None = None


@dataclass(slots=True)
class LegRecord:
    """One side of the call. `remote` is "host:port" of the peer's SIP; `described` the SDP that it sent last."""

    name: str
    network: str
    transport: str
    remote: str
    trunk: str | None = None
    call_id: str = ""
    local_tag: str = ""
    remote_tag: str = ""
    described: bytes = b""

    @property
    def sdp(self) -> tuple[str, ...]:
        """What it signalled last, a line for each m= line."""
        return sdp_summary(self.described)

    def to_json(self) -> dict[str, object]:
        """Everything as plain data for `json.dumps`."""
        plain = asdict(self)
        del plain["described"]
        return {**plain, "sdp": self.sdp}


@dataclass(slots=True)
class TriedTarget:
    """One server that was tried and what came of it; `status` 0 while that is open or nothing came."""

    leg: str
    trunk: str
    network: str
    transport: str
    address: str
    user: str
    started: float
    ended: float | None = None
    status: int = 0
    reason: str = ""
    rule: str = ""


class CallRecord:
    """All that is known of one call. Times are seconds since the epoch."""

    __slots__ = (
        "_keep",
        "_mode",
        "answered_at",
        "answered_leg",
        "called",
        "caller",
        "decisions",
        "decisions_left_out",
        "end_by",
        "end_cause",
        "end_text",
        "ended_at",
        "final_rule",
        "final_status",
        "id",
        "leaks",
        "legs",
        "media",
        "messages",
        "messages_left_out",
        "ringing_at",
        "started",
        "targets",
    )

    def __init__(self, id: str, started: float, trace_messages: int = 50, trace: TraceMode = "lines") -> None:
        self.id = id
        self.started = started
        self.ringing_at: float | None = None
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.answered_leg = ""
        self.caller = ""
        self.called = ""
        self.legs: list[LegRecord] = []
        self.targets: list[TriedTarget] = []
        self.decisions: list[Decision] = []
        self.decisions_left_out = 0
        self.messages: list[TracedMessage] = []
        self.messages_left_out = 0
        self.end_by = ""
        self.end_cause = ""
        self.end_text = ""
        self.final_status = 0
        self.final_rule = ""
        self.media: MediaReport | None = None
        self.leaks = 0
        self._keep = 0 if trace == "off" else trace_messages
        self._mode: TraceMode = trace

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """How the call stands."""
        if self.ended_at is None:
            return "ringing" if self.answered_at is None else "up"
        return "failed" if self.answered_at is None else "ended"

    @property
    def source_trunk(self) -> str | None:
        """The trunk that the call came from."""
        return self.legs[0].trunk if self.legs else None

    @property
    def target(self) -> TriedTarget | None:
        """The server that took the call, else the one whose answer the caller was told, else the last one tried."""
        for tried in reversed(self.targets):
            if tried.leg == self.answered_leg:
                return tried
        for tried in self.targets:
            if tried.status and (tried.status, tried.rule) == (self.final_status, self.final_rule):
                return tried
        return self.targets[-1] if self.targets else None

    def leg(self, name: str) -> LegRecord | None:
        """The leg of that name."""
        for leg in self.legs:
            if leg.name == name:
                return leg
        return None

    def lasted_s(self, now: float) -> float:
        """How long it was, or has been, answered; for a call that was not, since it came."""
        begin = self.started if self.answered_at is None else self.answered_at
        return max(0.0, (now if self.ended_at is None else self.ended_at) - begin)

    # -- writing -------------------------------------------------------------------------------------------

    def decide(self, decision: Decision, at: float) -> None:
        """Add a choice, made at `at`."""
        if not decision.at:
            decision = Decision(decision.stage, decision.rule, decision.compared, decision.outcome, at)
        self.decisions_left_out += _add(self.decisions, decision, MAX_DECISIONS)

    def add_leg(self, name: str, flow: Flow, trunk: str | None, call_id: str) -> None:
        """A leg has come to be."""
        leg = LegRecord(name, flow.network, flow.transport, host_port(flow.remote), trunk, printable(call_id))
        _add(self.legs, leg, MAX_LEGS)

    def try_target(self, name: str, target: Target, at: float) -> None:
        """`target` is being tried as leg `name`."""
        tried = TriedTarget(
            name, target.trunk, target.network, target.transport, host_port(target.address),
            printable(target.user), at,
        )  # fmt: skip
        _add(self.targets, tried, MAX_TARGETS)

    def tried(self, leg: str, status: int, reason: str, rule: str, at: float) -> None:
        """How the target of leg `leg` ended."""
        for target in reversed(self.targets):
            if target.leg == leg and target.ended is None:
                target.status, target.reason, target.rule = status, printable(reason), rule
                target.ended = at
                return

    def rang(self, at: float) -> None:
        """The first sign of ringing."""
        if self.ringing_at is None:
            self.ringing_at = at

    def answered(self, at: float, leg: str) -> None:
        """Leg `leg` has answered."""
        if self.answered_at is None:
            self.answered_at = at
            self.answered_leg = leg
            self.tried(leg, 200, "OK", "answered", at)

    def end(self, at: float, by: str, cause: str, text: str, status: int, rule: str) -> None:
        """The call is over, by "a", "b" or "sbc"; what is told first stands."""
        if self.ended_at is not None:
            return
        self.ended_at = at
        self.end_by, self.end_cause, self.end_text = by, cause, printable(text)
        self.final_status, self.final_rule = status, rule
        for target in self.targets:
            if target.ended is None:
                target.ended, target.rule = at, cause

    def trace(
        self,
        at: float,
        leg: str,
        direction: Literal["<", ">"],
        message: Request | Response,
        data: bytes | None,
    ) -> None:
        """A message of leg `leg`: `data` its bytes where they are at hand."""
        known = self.leg(leg)
        if known is not None:
            _learn(known, direction, message)
        if not self._keep:
            self.messages_left_out += 1
            return
        kept: bytes | None = None
        if self._mode == "full":
            kept = _without_secrets(message.encode() if data is None else data)[:MAX_BYTES]
        summary = printable(summary_of(message))
        if _usual(message):
            # The same few lines stand in thousands of calls: interned, they are there once.
            summary = sys.intern(summary)
        self.messages_left_out += _add(
            self.messages, TracedMessage(at, leg, direction, summary, kept), self._keep
        )

    # -- written down --------------------------------------------------------------------------------------

    def to_json(self, messages: bool = True) -> dict[str, object]:
        """Everything as plain data for `json.dumps`."""
        return {
            "id": self.id,
            "state": self.state,
            "started": self.started,
            "ringing": self.ringing_at,
            "answered": self.answered_at,
            "ended": self.ended_at,
            "caller": printable(self.caller),
            "called": printable(self.called),
            "legs": [leg.to_json() for leg in self.legs],
            "targets": [asdict(target) for target in self.targets],
            "status": self.final_status,
            "rule": self.final_rule,
            "ended_by": self.end_by,
            "cause": self.end_cause,
            "text": self.end_text,
            "leaks": self.leaks,
            "media": None if self.media is None else media_json(self.media),
            "decisions": [
                {
                    "at": decision.at,
                    "stage": decision.stage,
                    "rule": decision.rule,
                    "compared": {what: printable(value) for what, value in decision.compared},
                    "outcome": printable(decision.outcome),
                }
                for decision in self.decisions
            ],
            "decisions_left_out": self.decisions_left_out,
            "messages": [_message_json(message) for message in self.messages] if messages else [],
            "messages_left_out": self.messages_left_out,
        }


def summary_of(message: Request | Response) -> str:
    """`INVITE (sdp)`, `180 Ringing`, `200 OK (sdp)`; a response to anything but INVITE names its request."""
    with_sdp = " (sdp)" if message.body and "application/sdp" in message.content_type else ""
    if isinstance(message, Request):
        return f"{message.method}{with_sdp}"
    method = message.method or "INVITE"
    about = "" if method == "INVITE" else f" ({method})"
    return f"{message.status} {message.reason}{about}{with_sdp}"


def _usual(message: Request | Response) -> bool:
    """Whether the summary is one of a few: what is interned may stay for ever (Python 3.12), and peers make up
    methods and phrases."""
    if message.method not in KNOWN:
        return False
    return isinstance(message, Request) or SIP.get(message.status) == message.reason


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """What a peer wrote, fit for a terminal and a file: bounded, no control characters, no broken UTF-8."""
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(character if character.isprintable() else "?" for character in text[:limit])
    return f"{shown}..." if len(text) > limit else shown


def media_json(report: MediaReport) -> list[dict[str, object]]:
    """The streams of a call: line, and what came from each side ("a", "b"; None without counters)."""
    counters = {one.id: one for one in report.counters}
    streams: list[dict[str, object]] = []
    for line in report.lines:
        counted = counters.get(line.stream)
        streams.append(
            {
                **asdict(line),
                "a": None if counted is None else asdict(counted.a),
                "b": None if counted is None else asdict(counted.b),
            }
        )
    return streams


def _message_json(message: TracedMessage) -> dict[str, object]:
    return {
        "at": message.at,
        "leg": message.leg,
        "direction": message.direction,
        "summary": message.summary,
        "data": None if message.data is None else message.data.decode("utf-8", "replace"),
    }


def _without_secrets(data: bytes) -> bytes:
    """What may be shown of a message: `sbc explain` and the API give it to whoever asks."""
    text = data.decode("utf-8", "surrogateescape")
    shown = redact(text)
    return data if shown is text else shown.encode("utf-8", "surrogateescape")


def _add(items: list[T], item: T, limit: int) -> int:
    """Append within `limit`; returns how many were left out (0 or 1).

    The beginning and the end of a call explain it: beyond the limit the oldest entry of the last quarter goes.
    """
    items.append(item)
    if len(items) <= limit:
        return 0
    del items[limit - limit // 4 - 1]
    return 1


def _learn(leg: LegRecord, direction: str, message: Request | Response) -> None:
    """Take the tags and the peer's SDP from a message."""
    theirs = direction == "<"
    known = leg.remote_tag if theirs else leg.local_tag
    # A final answer may come from another branch than the provisional one before it.
    if not known or (theirs and isinstance(message, Response) and message.status >= 200):
        try:
            # RFC 3261 s.12.1: the sender's own tag is in From of a request and in To of a response.
            sender = message.from_tag if isinstance(message, Request) else message.to_tag
        except ParseError:
            sender = None
        if sender:
            if theirs:
                leg.remote_tag = printable(sender)
            else:
                leg.local_tag = printable(sender)
    if theirs and message.body and message.content_type == "application/sdp":
        leg.described = message.body if len(message.body) <= MAX_BYTES else message.body[:MAX_BYTES]


def sdp_summary(body: bytes) -> tuple[str, ...]:
    """`audio 192.0.2.1:4000 RTP/AVP 0 8 101 sendonly`, one for each m= line, for people."""
    text = body.decode("utf-8", "replace")
    session, direction = "", "sendrecv"
    lines: list[list[str]] = []
    for line in text.splitlines():
        kind, value = line[:2], line[2:].strip()
        if kind == "m=":
            media, port, *rest = [*value.split(), "", ""]
            lines.append([media, session, port, " ".join(rest).strip(), direction])
        elif kind == "c=":
            host = value.rpartition(" ")[2]
            if lines:
                lines[-1][1] = host
            else:
                session = host
        elif kind == "a=" and value in ("sendrecv", "sendonly", "recvonly", "inactive"):
            if lines:
                lines[-1][4] = value
            else:
                direction = value
    return tuple(
        printable(f"{media} {_shown(host, port)} {formats} {way}", 120)
        for media, host, port, formats, way in lines[:MAX_SDP_LINES]
    )


def _shown(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
