"""What the log says of calls (style.md s.9): a line for each event, messages at DEBUG, a bug once in full."""

import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from sbc.log import Log
from sbc.record import CallRecord, TriedTarget
from signaling.flow import Flow, host_port

REFUSALS_PER_S = 20
"""Refused calls that get a line of their own in a second: a flood must not become one of the log, too."""
NAMES_LIMIT = 20_000
"""Call-IDs whose call is remembered for DEBUG."""

WAITED_S = 0.02
"""A message that waited for us at least this long says so at DEBUG."""

# What policy says on purpose, or what every scanner on the internet meets: no reason to wake anybody.
_EXPECTED = frozenset({"rejected-by-route", "no-route", "no-route-for-source", "draining", "too-many-hops"})
# Of a server that did not take a call, those that the operator should look at.
_DEAD = frozenset({"server-timeout", "server-unreachable"})


class Journal:
    """Writes the events of calls. `event` and `bug` fit `Calls`; nothing here knows the wire.

    `debugging`: whether it is to be told of every message.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.heed()
        self._bugs: Counter[str] = Counter()
        self._second = 0
        self._refused = 0
        self._unsaid = 0
        self._held: list[tuple[Literal["<", ">"], bytes, Flow, float]] | None = None
        self._names: dict[str, tuple[str, str]] = {}

    def heed(self) -> None:
        """The level of the log may have changed. It is not asked at each message."""
        self.debugging = self._log.debugging
        self._informing = self._log.informing

    # -- calls ---------------------------------------------------------------------------------------------

    def event(self, what: str, record: CallRecord) -> None:
        """A call came, rings, was answered, or a server did not take it."""
        if what == "tried":
            self._tried(record)
        elif self._informing:
            self._progress(what, record)

    def _progress(self, what: str, record: CallRecord) -> None:
        match what:
            case "came":
                self._came(record)
            case "ringing":
                after_s = (record.ringing_at or record.started) - record.started
                self._log.info("call ringing", call=record.id, leg=_current(record), after_s=after_s)
            case "answered":
                after_s = (record.answered_at or record.started) - record.started
                target = record.target
                self._log.info(
                    "call answered",
                    call=record.id,
                    leg=record.answered_leg,
                    trunk=None if target is None else target.trunk,
                    server=_server(target),
                    after_s=after_s,
                )

    def _came(self, record: CallRecord) -> None:
        leg = record.leg("a")
        if self.debugging and leg is not None:
            self._know(leg.call_id, (record.id, "a"))
        self._log.info(
            "call came",
            call=record.id,
            leg="a",
            caller=record.caller,
            called=record.called,
            trunk=record.source_trunk,
            network=None if leg is None else leg.network,
            peer=None if leg is None else f"{leg.transport}:{leg.remote}",
        )

    def _tried(self, record: CallRecord) -> None:
        ended = [target for target in record.targets if target.ended is not None]
        if not ended:
            return
        target = max(ended, key=lambda one: one.ended or 0.0)
        tell = self._log.warning if target.rule in _DEAD else self._log.info
        tell(
            "server did not take the call",
            call=record.id,
            leg=target.leg,
            trunk=target.trunk,
            server=_server(target),
            status=target.status or None,
            reason=target.reason or None,
            rule=target.rule,
        )

    def ended(self, record: CallRecord, now: float) -> None:
        """A call is over, or never came to be; `now` in seconds since the epoch."""
        if record.leaks:
            self._log.warning(
                "topology: parts of the other side were about to leave",
                call=record.id,
                leaks=record.leaks,
                see=f"sbc explain {record.id}",
            )
        rule = record.final_rule if record.final_rule != record.end_cause else None
        if not self._informing and (record.answered_at is not None or record.targets):
            return
        if record.answered_at is not None:
            self._log.info(
                "call ended",
                call=record.id,
                by=record.end_by,
                cause=record.end_cause,
                status=record.final_status or None,
                rule=rule,
                lasted_s=record.lasted_s(now),
            )
        elif record.targets:
            self._log.info(
                "call failed",
                call=record.id,
                by=record.end_by,
                cause=record.end_cause,
                status=record.final_status,
                rule=rule,
                lasted_s=record.lasted_s(now),
            )
        else:
            self._refusal(record, now)

    def _refusal(self, record: CallRecord, now: float) -> None:
        """A call that no server was asked to take."""
        if int(now) != self._second:
            self._second, self._refused = int(now), 0
        self._refused += 1
        if self._refused > REFUSALS_PER_S:
            self._unsaid += 1
            return
        leg = record.leg("a")
        expected = record.end_by != "sbc" or record.end_cause in _EXPECTED
        tell = self._log.info if expected else self._log.warning
        tell(
            "call refused" if record.end_by == "sbc" else "call failed",
            call=record.id,
            leg="a",
            status=record.final_status,
            reason=record.end_text,
            rule=record.final_rule or record.end_cause,
            caller=record.caller or None,
            called=record.called or None,
            trunk=record.source_trunk,
            network=None if leg is None else leg.network,
            peer=None if leg is None else f"{leg.transport}:{leg.remote}",
            refusals_not_logged=self._unsaid or None,
        )
        self._unsaid = 0

    # -- bugs ----------------------------------------------------------------------------------------------

    def bug(self, error: Exception, **fields: object) -> None:
        """Our own fault: the traceback the first time, then a line whenever the count has grown tenfold."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "-"
        kind = f"{type(error).__name__} at {where}"
        self._bugs[kind] += 1
        times = self._bugs[kind]
        if times == 1:
            self._log.error("a bug of ours", error=error, kind=kind, **fields)
        elif str(times).strip("0") == "1":
            self._log.error("a bug of ours, again", error=None, kind=kind, times=times, **fields)

    @property
    def bugs(self) -> dict[str, int]:
        """How often each kind was met."""
        return {f"bug.{kind}": times for kind, times in self._bugs.items()}

    # -- messages at DEBUG ---------------------------------------------------------------------------------

    def begin(self, data: bytes, flow: Flow, age_s: float) -> None:
        """A message came. It and what it causes are written by `finish`, when it is known whose they are."""
        self._held = [("<", data, flow, age_s)]

    def sent(self, data: bytes, flow: Flow, records: Sequence[CallRecord]) -> None:
        """A message leaves; `records` are the calls that it may belong to, the likely ones first."""
        if self._held is not None:
            self._held.append((">", data, flow, 0.0))
        else:
            self._write(">", data, flow, 0.0, records)

    def finish(self, records: Sequence[CallRecord]) -> None:
        """Write what `begin` and `sent` have held back."""
        held, self._held = self._held, None
        for direction, data, flow, age_s in held or ():
            self._write(direction, data, flow, age_s, records)

    def _write(
        self,
        direction: Literal["<", ">"],
        data: bytes,
        flow: Flow,
        age_s: float,
        records: Sequence[CallRecord],
    ) -> None:
        call, leg = self._whose(call_id_of(data), records)
        self._log.message(
            direction,
            data,
            call=call,
            leg=leg,
            network=flow.network,
            transport=flow.transport,
            peer=host_port(flow.remote),
            age_s=age_s if age_s >= WAITED_S else None,
        )

    def _whose(self, call_id: str, records: Sequence[CallRecord]) -> tuple[str, str]:
        known = self._names.get(call_id)
        if known is None:
            known = next(
                (
                    (record.id, leg.name)
                    for record in records
                    for leg in record.legs
                    if leg.call_id == call_id
                ),
                None,
            )
            if known is None:
                return "-", "-"
            self._know(call_id, known)
        return known

    def _know(self, call_id: str, whose: tuple[str, str]) -> None:
        if len(self._names) >= NAMES_LIMIT:
            self._names.clear()
        self._names[call_id] = whose


def call_id_of(data: bytes) -> str:
    """The Call-ID of a raw message, "" without one."""
    for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"call-id", b"i"):
            return value.strip().decode("utf-8", "replace")
    return ""


def _current(record: CallRecord) -> str:
    return next((target.leg for target in reversed(record.targets) if target.ended is None), "-")


def _server(target: TriedTarget | None) -> str | None:
    return None if target is None else f"{target.transport}:{target.address}"
