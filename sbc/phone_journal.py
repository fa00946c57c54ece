"""The log of registrations: a line for what changes, none for a refresh, and a flood does not become one of the log."""

from sbc.log import Log
from sbc.registration_effects import Happened
from signaling.flow import host_port

LINES_PER_S = 50
"""Lines of phones in a second: after an outage all of them register at once."""
_NORMAL = frozenset({"registered", "moved", "removed", "expired"})


class PhoneJournal:
    """Writes what happens to phones, and when their store is in trouble."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._second = 0
        self._said = 0
        self._unsaid = 0
        self._trouble: str | None = None

    def happened(self, happened: Happened, now: float) -> None:
        """A registration changed, or was refused."""
        if int(now) != self._second:
            self._second, self._said = int(now), 0
        self._said += 1
        if self._said > LINES_PER_S:
            self._unsaid += 1
            return
        flow, before = happened.flow, happened.before
        tell = self._log.info if happened.what in _NORMAL else self._log.warning
        tell(
            f"phone {happened.what}",
            user=happened.user or None,
            network=None if flow is None else flow.network,
            peer=None if flow is None else f"{flow.transport}:{host_port(flow.remote)}",
            was=None if before is None else f"{before.transport}:{host_port(before.remote)}",
            why=happened.why or None,
            phones_not_logged=self._unsaid or None,
        )
        self._unsaid = 0

    def stored(self, error: str | None) -> None:
        """A write to the store went well, or not because of `error`: said when it begins and when it is over."""
        if error == self._trouble:
            return
        self._trouble = error
        if error is not None:
            self._log.error("registrations cannot be stored: phones are answered 503", why=error)
        else:
            self._log.info("registrations can be stored again")
