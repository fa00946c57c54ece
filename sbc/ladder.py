"""The ladder diagram of a call: both legs side by side, and what the border hid between them.

Pure functions: the lines of a trace in, text out. `steps_of` takes them from a call's record.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from signaling.errors import ParseError
from signaling.message import Request, Response
from signaling.parser import parse

MIN_WIDTH = 60
MAX_WIDTH = 160
TIME_COLUMNS = 10
NOT_PASSED = "(not passed)"
HIDDEN_ROWS = 60
"""A message can have 128 header fields; the table of what was hidden stops here."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message: `at` seconds since the epoch, `leg` "a", "b1", ...; "<" came to us, ">" left us."""

    at: float
    leg: str
    direction: Literal["<", ">"]
    summary: str


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a side: who stands there."""

    name: str
    peer: str


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of a ladder."""

    bar: str
    line: str
    right: str
    left: str
    cut: str


UNICODE = Glyphs("│", "─", "▶", "◀", "…")
ASCII = Glyphs("|", "-", ">", "<", "~")


def ladder(
    steps: Sequence[Step],
    left: Column,
    right: Column,
    width: int = 100,
    plain: bool = False,
    dropped: int = 0,
) -> str:
    """The diagram, `width` columns wide. `plain` keeps to ASCII; `dropped` messages were not recorded."""
    glyphs = ASCII if plain else UNICODE
    lane = (max(MIN_WIDTH, min(width, MAX_WIDTH)) - TIME_COLUMNS - 3) // 2
    lines = [_heads(left, right, lane, glyphs)]
    begin = steps[0].at if steps else 0.0
    many = len({step.leg for step in steps if step.leg != "a"}) > 1
    for step in steps:
        on_left = step.leg == "a"
        text = f"{step.leg}: {step.summary}" if many and not on_left else step.summary
        # A's messages run to the right when they come in, B's when they go out.
        arrow = _arrow(_visible(text), lane, (step.direction == "<") == on_left, glyphs)
        empty = " " * lane
        cells = (arrow, empty) if on_left else (empty, arrow)
        row = f"{step.at - begin:>{TIME_COLUMNS - 2}.3f}  " + glyphs.bar + glyphs.bar.join(cells) + glyphs.bar
        lines.append(row)
    if not steps:
        lines.append(" " * TIME_COLUMNS + "no messages were recorded (log.trace is off)")
    if dropped:
        lines.append(
            " " * TIME_COLUMNS + f"{dropped} further messages were not recorded (limits.trace_messages)"
        )
    return "\n".join(lines)


def _heads(left: Column, right: Column, lane: int, glyphs: Glyphs) -> str:
    first = _cut(_visible(f"{left.name} {left.peer}".strip()), lane - 3, glyphs)
    last = _cut(_visible(f"{right.name} {right.peer}".strip()), lane - 3, glyphs)
    # "SBC" stands over the middle bar, whose column is TIME_COLUMNS + 1 + lane.
    return " " * TIME_COLUMNS + first.ljust(lane) + "SBC" + last.rjust(lane)


def _arrow(text: str, lane: int, to_right: bool, glyphs: Glyphs) -> str:
    text = f" {_cut(text, lane - 6, glyphs)} "
    line = text.center(lane - 1, "\0").replace("\0", glyphs.line)
    return f"{line}{glyphs.right}" if to_right else f"{glyphs.left}{line}"


def _cut(text: str, width: int, glyphs: Glyphs) -> str:
    return text if len(text) <= width else text[: width - 1] + glyphs.cut


def _visible(text: str) -> str:
    """What a peer wrote must not move the operator's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


# What was hidden


@dataclass(frozen=True, slots=True)
class Hidden:
    """One thing as the two sides saw it. `inside` is None for what did not cross at all."""

    what: str
    outside: str
    inside: str | None

    @property
    def kept(self) -> bool:
        """Whether both sides saw the same."""
        return self.outside == self.inside


Getter = Callable[[Request | Response], str | None]


def _header(name: str) -> Getter:
    return lambda message: ", ".join(message.get_all(name)) or None


def _sdp(kind: str) -> Getter:
    def get(message: Request | Response) -> str | None:
        found = [
            line for line in message.body.decode("utf-8", "replace").splitlines() if line.startswith(kind)
        ]
        return " / ".join(found) or None

    return get


def _request_uri(message: Request | Response) -> str | None:
    return message.uri if isinstance(message, Request) else None


# In the order of a message. Max-Forwards, CSeq and Content-Length name nobody and are left out.
COMPARED: tuple[tuple[str, Getter], ...] = (
    ("Request-URI", _request_uri),
    ("Via", _header("Via")),
    ("Record-Route", _header("Record-Route")),
    ("From", _header("From")),
    ("To", _header("To")),
    ("Call-ID", _header("Call-ID")),
    ("Contact", _header("Contact")),
    ("User-Agent", _header("User-Agent")),
    ("Server", _header("Server")),
    ("SDP o=", _sdp("o=")),
    ("SDP s=", _sdp("s=")),
    ("SDP c=", _sdp("c=")),
    ("SDP m=", _sdp("m=")),
)
_SILENT = frozenset(
    {"cseq", "max-forwards", "content-length", "content-type", "allow", "supported", "accept"}
)


def compare(outside: Request | Response, inside: Request | Response) -> list[Hidden]:
    """What the sender of `outside` wrote, and what the receiver of `inside` got instead."""
    rows = [Hidden(what, ours, get(inside)) for what, get in COMPARED if (ours := get(outside)) is not None]
    named = {what.lower() for what, _ in COMPARED} | _SILENT
    for name in dict.fromkeys(name for name, _ in outside.fields):
        if _long_form(name) not in named and name.lower() not in named:
            rows.append(
                Hidden(name, ", ".join(outside.get_all(name)), ", ".join(inside.get_all(name)) or None)
            )
    return rows[:HIDDEN_ROWS]


# RFC 3261 s.7.3.3 and the registry; only those that `COMPARED` and `_SILENT` name.
_COMPACT = {
    "v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
    "c": "content-type", "k": "supported",
}  # fmt: skip


def _long_form(name: str) -> str:
    return _COMPACT.get(name.lower(), name.lower())


def hidden_between(messages: Iterable[tuple[str, str, bytes]]) -> dict[str, list[Hidden]]:
    """What was hidden in the INVITE and in its 200, by a title.

    `messages` are (leg, direction, whole bytes) in the order of time. Both directions are there when the call
    was answered; nothing when the trace holds no whole messages.
    """
    offered: list[tuple[str, str, Request]] = []
    answered: list[tuple[str, str, Response]] = []
    for leg, direction, data in messages:
        try:
            message = parse(data)
        except ParseError:
            continue
        if isinstance(message, Request):
            if message.method == "INVITE":
                offered.append((leg, direction, message))
        elif 200 <= message.status < 300 and message.cseq.method == "INVITE":
            answered.append((leg, direction, message))
    tables: dict[str, list[Hidden]] = {}
    came = next((message for leg, way, message in offered if leg == "a" and way == "<"), None)
    # The last target is the one that the call went to; the earlier ones were failovers.
    left = next((message for leg, way, message in reversed(offered) if leg != "a" and way == ">"), None)
    if came is not None and left is not None:
        tables["INVITE from A to B"] = compare(came, left)
    back = next((message for leg, way, message in answered if leg != "a" and way == "<"), None)
    forth = next((message for leg, way, message in answered if leg == "a" and way == ">"), None)
    if back is not None and forth is not None:
        tables["200 OK from B to A"] = compare(back, forth)
    return tables


def hidden_text(tables: Mapping[str, Sequence[Hidden]], width: int = 100, plain: bool = False) -> str:
    """The tables of `hidden_between` for a terminal of `width` columns."""
    glyphs = ASCII if plain else UNICODE
    width = max(MIN_WIDTH, min(width, MAX_WIDTH))
    lines: list[str] = []
    for title, rows in tables.items():
        column = max((len(row.what) for row in rows), default=8) + 2
        cell = (width - column - 5) // 2
        sender, receiver = title.split(" from ")[1].split(" to ")
        lines.append(title)
        lines.append(f"  {'':{column}}{f'{sender} wrote':{cell}}   {receiver} got")
        for row in rows:
            outside = _cut(_visible(row.outside), cell, glyphs)
            inside = NOT_PASSED if row.inside is None else "(the same)" if row.kept else row.inside
            lines.append(f"  {row.what:{column}}{outside:{cell}}   {_cut(_visible(inside), cell, glyphs)}")
        lines.append("")
    return "\n".join(lines).rstrip("\n")
