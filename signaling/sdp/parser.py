"""The SDP parser (RFC 8866 s.5): bytes to `Session`, bounded, raising only ParseError.

Strict where a mistake would send media to the wrong place, liberal where phones are: lines may end in LF alone,
empty lines are skipped, s= and t= may be missing, and the order of the lines before the first m= is free but for
v=. What it does not know it keeps.
"""

from dataclasses import dataclass

from signaling.errors import ParseError
from signaling.sdp.session import Media, Session, parse_origin


@dataclass(frozen=True, slots=True)
class SdpLimits:
    """The bounds of one session description."""

    max_bytes: int = 32768
    max_lines: int = 1024
    max_line: int = 4096
    max_media: int = 32
    max_formats: int = 128


LIMITS = SdpLimits()


def parse(data: bytes, limits: SdpLimits = LIMITS) -> Session:
    """A session description. Raises ParseError with a slug that says which rule was broken."""
    if len(data) > limits.max_bytes:
        raise ParseError("SDP too large", "sdp-too-large")
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        raise ParseError("control character in SDP", "sdp-bad-line")
    lines = [line for line in text.split("\n") if line]
    if len(lines) > limits.max_lines:
        raise ParseError("SDP with too many lines", "sdp-too-large")
    if not lines or lines[0] != "v=0":
        raise ParseError("SDP does not begin with v=0", "sdp-bad-version")
    longest = limits.max_line
    origin: str | None = None
    starts: list[int] = []
    for number, line in enumerate(lines):
        if line[1:2] != "=" or not line[0].isalpha() or len(line) > longest:
            raise ParseError("SDP line is too long or not of the form x=value", "sdp-bad-line")
        if line[0] == "m":
            starts.append(number)
        elif line[0] == "o":
            if origin is not None or starts:
                raise ParseError("more than one o= line", "sdp-bad-origin")
            origin = line
    if origin is None:
        raise ParseError("SDP without o= line", "sdp-no-origin")
    parse_origin(origin[2:])
    if len(starts) > limits.max_media:
        raise ParseError("SDP with too many m= lines", "sdp-too-large")
    if not starts:
        return Session(tuple(lines))
    ends = [*starts[1:], len(lines)]
    media = tuple(
        parse_media(lines[start][2:], tuple(lines[start + 1 : end]), limits)
        for start, end in zip(starts, ends, strict=True)
    )
    return Session(tuple(lines[: starts[0]]), media)


def parse_media(value: str, below: tuple[str, ...], limits: SdpLimits = LIMITS) -> Media:
    """An m= value with the lines below it."""
    parts = value.split()
    if not 4 <= len(parts) <= 3 + limits.max_formats:
        raise ParseError("m= line without media, port, protocol and format", "sdp-bad-media")
    port, slash, count = parts[1].partition("/")
    return Media(
        parts[0], _number(port, 0), _number(count, 1) if slash else 1, parts[2], tuple(parts[3:]), below
    )


def _number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or not least <= int(text) <= 65535:
        raise ParseError("bad port in m= line", "sdp-bad-media")
    return int(text)
