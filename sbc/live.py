"""Tables for the terminal: calls, live or once, and trunks. Data comes as the control socket gives it."""

import sys
import time
from collections.abc import Callable, Mapping

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESH_S = 1.0
ROWS_LIMIT = 200
"""A terminal shows no more; the last line says how many are left out."""

PIPE_COLUMNS = 200
WIDE = 110
"""From this width on a row names networks beside trunks, and counts packets."""
GAP = 2
SHORTEST = 11
"""Who calls whom, and from where, get at least this."""
# Title of each column, and the key of the row that it shows.
_COLUMNS = {
    "call": "id", "state": "state", "for": "lasted_s", "caller -> called": "", "from -> to": "", "codec": "codec",
    "packets A/B": "packets", "loss %": "loss", "MOS": "mos", "end": "cause",
}  # fmt: skip
_NARROW_WITHOUT = {"packets A/B", "loss %"}

_STATES = {"up": "green", "ringing": "yellow", "failed": "red", "ended": "dim"}


def calls_table(answer: Mapping[str, object], limit: int = ROWS_LIMIT, width: int = PIPE_COLUMNS) -> Group:
    """The answer to the verb `calls` or `recent`. What does not fit in `width` columns is left out by its worth."""
    rows = answer.get("calls")
    rows = rows if isinstance(rows, list) else []
    wide = width >= WIDE
    ended = any(row.get("cause") for row in rows)
    columns = [
        column
        for column in _COLUMNS
        if (wide or column not in (_NARROW_WITHOUT | ({"codec"} if ended else set())))
        and (ended or column != "end")
    ]
    lines = [[_cell(row, column, wide) for column in columns] for row in rows[:limit]]
    table = Table(box=None, pad_edge=False, header_style="bold")
    widths = {
        column: max(cell_len(column), *(line[place].cell_len for line in lines), 0)
        for place, column in enumerate(columns)
    }
    room = width - sum(widths.values()) - GAP * (len(columns) - 1)
    if room < 0:
        # Who calls whom is cut before any figure is: a number without its end is wrong.
        whole = max(2 * SHORTEST, widths["caller -> called"] + widths["from -> to"] + room)
        widths["from -> to"] = min(widths["from -> to"], max(whole // 2, whole - widths["caller -> called"]))
        widths["caller -> called"] = whole - widths["from -> to"]
    for column in columns:
        size = widths[column]
        table.add_column(
            column,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column == "for" else "left",
            min_width=size,
            max_width=size,
        )
    for line in lines:
        table.add_row(*line)
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
    console = console or _console()
    console.print(calls_table(answer, width=console.width))


def registered_table(answer: Mapping[str, object]) -> Table | None:
    """Our registrations at trunks in the answer to the verb `trunks`, None where there are none."""
    rows = answer.get("registered")
    if not isinstance(rows, list) or not rows:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trunk", "registered as", "at", "state", "for", "next in"):
        table.add_column(name, no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in rows:
        state = str(row.get("state", ""))
        table.add_row(
            *(_text(row, key) for key in ("trunk", "user", "server")),
            Text(state, style="green" if state == "registered" else "red" if state == "failed" else ""),
            *(f"{text} s" if (text := str(row.get(key, ""))) else "" for key in ("expires_s", "next_s")),
            _text(row, "why"),
        )
    return table


def print_trunks(answer: Mapping[str, object], console: Console | None = None) -> None:
    """The trunks as they are now."""
    console = console or _console()
    console.print(trunks_table(answer))
    registered = registered_table(answer)
    if registered is not None:
        console.print()
        console.print(registered)


def registrations_table(answer: Mapping[str, object]) -> Table:
    """The answer to the verb `registrations`."""
    rows = answer.get("registrations")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("user", "contact", "flow", "expires", "NAT", "registrar", "last seen", "state"):
        table.add_column(column, overflow="fold")
    for row in rows if isinstance(rows, list) else []:
        state = str(row.get("state"))
        table.add_row(
            Text(str(row.get("user"))),
            Text(str(row.get("contact"))),
            Text(f"{row.get('network')} {row.get('flow')}"),
            duration(row.get("expires_s")),
            Text(f"yes: {row['nat']}" if row.get("nat") else "no"),
            Text(_at_registrar(row)),
            f"{duration(row.get('seen_s'))} ago",
            Text(state, style="green" if state == "up" else "red"),
        )
    if not table.row_count:
        table.add_row("(none)")
    return table


def _at_registrar(row: Mapping[str, object]) -> str:
    left = duration(row.get("registrar_expires_s"))
    return f"{row.get('registrar')} for {left}" if left else str(row.get("registrar"))


def print_registrations(answer: Mapping[str, object], console: Console | None = None) -> None:
    """The registered phones as they are now."""
    (console or _console()).print(registrations_table(answer))


def watch(fetch: Callable[[int], Mapping[str, object]]) -> None:
    """The calls, fetched again every second until Ctrl-C; `fetch` is told how many rows there is room for."""
    console = Console()

    def table() -> Group:
        room = max(1, console.height - 3)
        return calls_table(fetch(room), room, console.width)

    with Live(table(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(table(), refresh=True)
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


def _cell(row: Mapping[str, object], column: str, wide: bool) -> Text:
    match column:
        case "state":
            state = str(row.get("state", ""))
            return Text(state, style=_STATES.get(state, ""))
        case "for":
            return Text(duration(row.get("lasted_s")))
        case "caller -> called":
            return _arrow(row, "caller", "called")
        case "from -> to":
            return _way(row) if wide else _arrow(row, "source", "target")
    return _text(row, _COLUMNS[column])


def _arrow(row: Mapping[str, object], source: str, target: str) -> Text:
    return _plain(f"{row.get(source) or '?'} -> {row.get(target) or '?'}")


def _way(row: Mapping[str, object]) -> Text:
    """Both networks, and the trunks where there are any."""
    ends = []
    for trunk, network in (("source", "source_network"), ("target", "target_network")):
        known = [str(row[key]) for key in (network, trunk) if row.get(key)]
        ends.append("/".join(dict.fromkeys(known)) or "?")
    return _plain(" -> ".join(ends))


def _text(row: Mapping[str, object], key: str) -> Text:
    value = row.get(key)
    return _plain("" if value is None else str(value))


def _plain(shown: str) -> Text:
    # Text, not str: what a peer called itself is not to be read as markup.
    return Text("".join(character if character.isprintable() else "?" for character in shown))
