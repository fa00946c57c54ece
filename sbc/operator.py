"""What an operator may ask of a running SBC: the verbs of the control socket."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from config.model import Config
from media.relay import Counters, StreamCounters
from sbc.anchor import MediaReport
from sbc.calls import REPORT_S, Calls
from sbc.control import Arguments, ControlError, Verb
from sbc.explain import Explanation, explain
from sbc.record import CallRecord

POLL_S = 0.02
COUNTERS_DEADLINE_S = 3.0
"""A little more than the relay waits for its own workers."""


class Operated(Protocol):
    """What the verbs need of the server."""

    config: Config
    calls: Calls

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""

    def counters(self, streams: list[int]) -> Awaitable[list[StreamCounters]]:
        """Figures of open streams."""

    async def reload(self) -> list[str]:
        """Read the configuration again; what changed, as lines. Raises ControlError."""

    def hang_up(self, call: str) -> None:
        """End a call."""

    def servers(self) -> list[dict[str, str]]:
        """The servers of the trunks as they are now: a row each."""

    def registrations(self) -> list[dict[str, object]]:
        """The phones that are registered: a row each."""

    def registered(self) -> list[dict[str, str]]:
        """Our registrations at trunks as they are now: a row each."""

    def counts(self) -> Mapping[str, int | str]:
        """Counters since the start, and what stands beside them in words."""


class Operator:
    """Answers the verbs out of what the server has."""

    def __init__(self, server: Operated) -> None:
        self._server = server

    def verbs(self) -> dict[str, Verb]:
        """By name, for the control socket."""
        return {
            "calls": self.calls,
            "recent": self.recent,
            "explain": self.explain,
            "hangup": self.hangup,
            "reload": self.reload,
            "trunks": self.trunks,
            "registrations": self.registrations,
            "stats": self.stats,
        }

    async def calls(self, arguments: Arguments) -> dict[str, object]:
        """The calls in progress, with the quality of what is heard right now.

        `figures`: for how many of them, the oldest first; asking the relay for all costs it time that the calls need.
        """
        records = list(self._server.calls.live.values())
        figures = arguments.get("figures")
        chosen = records[:figures] if isinstance(figures, int) else records
        reports = {record.id: self._server.calls.media(record.id) for record in chosen}
        counted = await self._count(line.stream for report in reports.values() for line in report.lines)
        rows = [
            call_row(
                record,
                _with_counters(reports[record.id], counted) if record.id in reports else None,
                self._server.wall,
            )
            for record in records
        ]
        return {"calls": rows, "summary": self._summary()}

    async def recent(self, arguments: Arguments) -> dict[str, object]:
        """The calls that have ended, latest first."""
        records = reversed(self._server.calls.recent)
        rows = [call_row(record, record.media, self._server.wall) for record in records]
        return {"calls": rows, "summary": self._summary()}

    async def explain(self, arguments: Arguments) -> dict[str, object]:
        """Everything about one call, as text and as data."""
        explanation = await self.explanation(self.find(arguments))
        width = arguments.get("width")
        text = explanation.text(width if isinstance(width, int) else 100, bool(arguments.get("plain")))
        return {"text": text, "data": explanation.data()}

    async def explanation(self, record: CallRecord) -> Explanation:
        """`record` explained with the figures of this moment, or with the final ones."""
        await self._last_figures(record)
        report = record.media
        if record.id in self._server.calls.live and record.ended_at is None:
            report = self._server.calls.media(record.id)
            counted = await self._count(line.stream for line in report.lines)
            report = _with_counters(report, counted)
        return explain(record, report, self._helped(record), self._server.wall)

    async def _last_figures(self, record: CallRecord) -> None:
        """Wait for the final counters of a call that has just ended; `Calls` gives them up after `REPORT_S`."""
        for _ in range(round(REPORT_S / POLL_S) + 1):
            if record.ended_at is None or record not in self._server.calls.closing:
                return
            await asyncio.sleep(POLL_S)

    async def hangup(self, arguments: Arguments) -> dict[str, object]:
        """End one call."""
        record = self.find(arguments)
        if record.id not in self._server.calls.live:
            raise ControlError(f"{record.id} has already ended; sbc explain {record.id} shows how")
        self._server.hang_up(record.id)
        return {"call": record.id}

    async def reload(self, arguments: Arguments) -> dict[str, object]:
        """Read the configuration again."""
        return {"changes": await self._server.reload()}

    async def trunks(self, arguments: Arguments) -> dict[str, object]:
        """The servers of every trunk, and our registrations at those where we have one."""
        calls: dict[str, int] = {}
        for record in self._server.calls.live.values():
            for name in {leg.trunk for leg in record.legs if leg.trunk}:
                calls[name] = calls.get(name, 0) + 1
        rows = [{**row, "calls": calls.get(row["trunk"], 0)} for row in self._server.servers()]
        return {"servers": rows, "registered": self._server.registered()}

    async def registrations(self, arguments: Arguments) -> dict[str, object]:
        """The phones that are registered; `user`: those of one only."""
        user = arguments.get("user")
        rows = self._server.registrations()
        return {"registrations": [row for row in rows if user is None or row["user"] == user]}

    async def stats(self, arguments: Arguments) -> dict[str, object]:
        """Counters since the start, and what is held now."""
        calls = self._server.calls
        held = {f"held.{name}": count for name, count in calls.leftovers().items()}
        held["registrations"] = len(calls.phones.locations)
        return {**held, **dict(sorted(self._server.counts().items()))}

    def find(self, arguments: Arguments) -> CallRecord:
        """The call that is meant: by its id, the first letters of it, or the Call-ID of a leg."""
        name = arguments.get("call")
        if not isinstance(name, str) or not name:
            raise ControlError("which call? give its id (sbc calls shows them), or a Call-ID")
        calls = self._server.calls
        every = [*calls.live.values(), *calls.closing, *reversed(calls.recent)]
        # A call that waits for the answer to its BYE and for its last figures is there twice.
        known = list({record.id: record for record in every}.values())
        for record in known:
            if record.id == name or any(leg.call_id == name for leg in record.legs):
                return record
        found = [
            record for record in known if record.id.startswith(name) or record.id.startswith(f"c-{name}")
        ]
        if not found:
            raise ControlError(
                f"no call {name!r} is in progress or among the last {calls.recent.maxlen}; sbc calls --recent"
                " shows what there is"
            )
        if len(found) > 1:
            names = ", ".join(record.id for record in found[:5])
            raise ControlError(f"{name!r} may be {len(found)} calls: {names}; give more letters")
        return found[0]

    async def _count(self, streams: Iterable[int]) -> dict[int, StreamCounters]:
        wanted = list(streams)
        if not wanted:
            return {}
        try:
            async with asyncio.timeout(COUNTERS_DEADLINE_S):
                return {one.id: one for one in await self._server.counters(wanted)}
        except TimeoutError:
            return {}

    def _helped(self, record: CallRecord) -> dict[str, bool]:
        config = self._server.config
        helped = {}
        for leg in record.legs:
            trunk = config.trunks.get(leg.trunk or "")
            network = config.networks.get(leg.network)
            policy = (trunk.nat if trunk else None) or (network.nat if network else "none")
            # Of several B legs the last one counts: the earlier ones failed.
            helped[leg.name[0]] = policy == "far-end"
        return helped

    def _summary(self) -> str:
        calls = self._server.calls
        draining = ", stopping: new calls get 503" if calls.draining else ""
        return f"{len(calls.live)} in progress, {len(calls.recent)} that have ended (sbc calls --recent){draining}"


def call_row(record: CallRecord, report: MediaReport | None, now: float) -> dict[str, object]:
    """A call as one row of a table."""
    came = record.leg("a")
    target = record.target
    lines = () if report is None else report.lines
    return {
        "id": record.id,
        "state": record.state,
        "source": None if came is None else came.trunk or came.network,
        "source_network": None if came is None else came.network,
        "caller": record.caller,
        "target": None if target is None else target.trunk,
        "target_network": None if target is None else target.network,
        "called": record.called,
        "started": record.started,
        "lasted_s": round(record.lasted_s(now), 3),
        "codec": ", ".join(line.codec for line in lines),
        "status": record.final_status,
        "cause": record.end_cause,
        "packets": "" if report is None else _both(report, lambda side: str(side.packets)),
        "loss": "" if report is None else _both(report, _loss),
        "mos": ""
        if report is None
        else _both(report, lambda side: "-" if side.mos is None else f"{side.mos:.1f}"),
    }


def _both(report: MediaReport, figure: Callable[[Counters], str]) -> str:
    """A figure of what came from A and from B, for each stream."""
    return ", ".join(f"{figure(one.a)}/{figure(one.b)}" for one in report.counters)


def _loss(side: Counters) -> str:
    """Percent of what A or B sent that never reached us."""
    lost = max(0, side.lost)
    return f"{100 * lost / (side.packets + lost):.1f}" if side.packets else "-"


def _with_counters(report: MediaReport, counted: Mapping[int, StreamCounters]) -> MediaReport:
    found = tuple(counted[line.stream] for line in report.lines if line.stream in counted)
    return replace(report, counters=found)
