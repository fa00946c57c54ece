"""Tables for the terminal: calls, live or once, and trunks. Data comes as the control socket gives it."""

import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESH_S = 1.0
ROWS_LIMIT = 200
"""A terminal shows no more; the last line says how many are left out."""

PIPE_COLUMNS = 200

_STATES = {"up": "green", "ringing": "yellow", "failed": "red", "ended": "dim"}


def calls_table(answer: Mapping[str, object], limit: int = ROWS_LIMIT) -> Group:
    """The answer to the verb `calls` or `recent`."""
    rows = answer.get("calls")
    rows = rows if isinstance(rows, list) else []
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("call", "state", "from", "caller", "to", "called", "since", "codec", "end"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("MOS A/B", no_wrap=True)
    for row in rows[:limit]:
        state = str(row.get("state", ""))
        table.add_row(
            _text(row, "id"),
            Text(state, style=_STATES.get(state, "")),
            *(_text(row, key) for key in ("source", "caller", "target", "called")),
            Text(duration(row.get("lasted_s"))),
            *(_text(row, key) for key in ("codec", "cause", "mos")),
        )
    footer = str(answer.get("summary", ""))
    if len(rows) > limit:
        footer = f"{len(rows) - limit} more (sbc calls --json shows all). {footer}"
    return Group(table, Text(footer, style="dim"))


def trunks_table(answer: Mapping[str, object]) -> Table:
    """The answer to the verb `trunks`."""
    rows = answer.get("servers")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trunk", "network", "server", "state", "calls", "why"):
        table.add_column(name, no_wrap=True)
    for row in rows if isinstance(rows, list) else []:
        state = str(row.get("state", ""))
        table.add_row(
            *(_text(row, key) for key in ("trunk", "network", "server")),
            Text(state, style="green" if state == "up" else "red" if state == "down" else ""),
            _text(row, "calls"),
            _text(row, "why"),
        )
    return table


def print_once(answer: Mapping[str, object], console: Console | None = None) -> None:
    """The calls as they are now."""
    (console or _console()).print(calls_table(answer))


def print_trunks(answer: Mapping[str, object], console: Console | None = None) -> None:
    """The trunks as they are now."""
    (console or _console()).print(trunks_table(answer))


def watch(fetch: Callable[[], Mapping[str, object]]) -> None:
    """The calls, fetched again every second until Ctrl-C."""
    console = Console()
    with Live(
        calls_table(fetch(), console.height - 3), console=console, screen=True, auto_refresh=False
    ) as live:
        while True:
            live.update(calls_table(fetch(), max(1, console.height - 3)), refresh=True)
            time.sleep(REFRESH_S)


def _console() -> Console:
    # A pipe has no width: nothing of a row is to be lost on its way to grep.
    return Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)


def duration(seconds: object) -> str:
    """`75` as `1:15`; an empty text for what is no number."""
    if not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _text(row: Mapping[str, object], key: str) -> Text:
    # Text, not str: what a peer called itself is not to be read as markup.
    value = row.get(key)
    shown = "" if value is None else str(value)
    return Text("".join(character if character.isprintable() else "?" for character in shown))
