"""What a service manager is told: ready, alive, reloading, stopping (sd_notify(3)), over a datagram socket."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping


class Supervisor:
    """Speaks to systemd when it started us (NOTIFY_SOCKET), and to nobody otherwise."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        known = os.environ if environment is None else environment
        path = known.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of Linux' abstract names.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        microseconds = known.get("WATCHDOG_USEC", "")
        ours = known.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_s = int(microseconds) / 1_000_000 if microseconds.isdigit() and ours else 0.0

    def tell(self, *states: str) -> bool:
        """Send states such as `READY=1`; returns whether somebody listens. Never raises: it is only news."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wire:
                wire.sendto("\n".join(states).encode(), self._address)
        except OSError:
            return False
        return True

    async def keep_alive(self, status: Callable[[], str]) -> None:
        """Tell the watchdog that the loop turns, twice per interval; returns at once when there is none."""
        while self.watchdog_s > 0:
            self.tell("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(self.watchdog_s / 2)
