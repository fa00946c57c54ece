"""RTCP (RFC 3550 s.6): what may cross the border, and the round trip that the reports tell.

Reports pass unchanged, since SSRCs and sequence numbers do. What names people and hosts does not: of SDES only
CNAME crosses, as a pseudonym (RFC 7022 asks for one that tells nothing); profile-specific extensions of
reports, the reason text of BYE and all APP and unknown packets are dropped.
"""

import struct
from collections.abc import Callable

SENDER_REPORT = 200
RECEIVER_REPORT = 201
SOURCE_DESCRIPTION = 202
GOODBYE = 203

# RTPFB and PSFB (RFC 4585), XR (RFC 3611): SSRCs, numbers and measurements only.
_PASSED = frozenset({SENDER_REPORT, RECEIVER_REPORT, 205, 206, 207})

_HEADER = struct.Struct("!BBH")
_WORD = struct.Struct("!I")
_SDES_CNAME = 1

# A DLSR of hours is nonsense, and so is a round trip of more than this: the reports do not belong together.
MAX_ROUND_TRIP_S = 10.0


class Compound:
    """A valid compound packet: `forward` is what crosses (maybe nothing).

    `sent` is the middle of the NTP timestamp of its sender report or None; `echoes` are the (LSR, DLSR) pairs
    of its report blocks that answer a sender report, both in 1/65536 s (RFC 3550 s.6.4.1). `lost` is the fraction
    lost of each report block, in 1/256, and `about` the SSRC that it is about; `senders` those whose reports they are.
    """

    __slots__ = ("about", "echoes", "forward", "lost", "senders", "sent")

    def __init__(
        self,
        forward: bytes,
        sent: int | None,
        echoes: list[tuple[int, int]],
        lost: list[int],
        senders: list[int],
        about: list[int],
    ) -> None:
        self.forward = forward
        self.sent = sent
        self.echoes = echoes
        self.lost = lost
        self.senders = senders
        self.about = about


def parse(data: bytes, pseudonym: Callable[[bytes], bytes]) -> Compound | None:
    """Take a compound packet apart; None when it is not one. Never raises.

    `pseudonym` gives the CNAME that stands for a CNAME on the other side. Reduced-size packets (RFC 5506)
    are valid: the first packet need not be a report.
    """
    parts: list[bytes] = []
    sent: int | None = None
    echoes: list[tuple[int, int]] = []
    lost: list[int] = []
    senders: list[int] = []
    about: list[int] = []
    at = 0
    size = len(data)
    while at < size:
        if size - at < 8 and not (size - at == 4 and at):
            return None
        first, kind, words = _HEADER.unpack_from(data, at)
        end = at + 4 + 4 * words
        if first & 0xC0 != 0x80 or not 192 <= kind <= 223 or end > size:
            return None
        stop = end
        if first & 0x20:
            # RFC 3550 s.6.4.1: only the last packet of a compound is padded.
            padding = data[end - 1]
            if end != size or padding == 0 or padding % 4 or padding > end - at - 4:
                return None
            stop -= padding
        count = first & 0x1F
        if kind in (SENDER_REPORT, RECEIVER_REPORT):
            blocks = at + (28 if kind == SENDER_REPORT else 8)
            if blocks + 24 * count > stop:
                return None
            senders.append(_WORD.unpack_from(data, at + 4)[0])
            if kind == SENDER_REPORT:
                sent = _WORD.unpack_from(data, at + 10)[0]
            for block in range(blocks, blocks + 24 * count, 24):
                about.append(_WORD.unpack_from(data, block)[0])
                lost.append(data[block + 4])
                lsr, dlsr = struct.unpack_from("!II", data, block + 16)
                if lsr:
                    echoes.append((lsr, dlsr))
            stop = blocks + 24 * count
        if kind in _PASSED:
            parts.append(_HEADER.pack(first & 0xDF, kind, (stop - at) // 4 - 1) + data[at + 4 : stop])
        elif kind == SOURCE_DESCRIPTION:
            chunks = _source_description(data, at + 4, stop, count, pseudonym)
            if chunks is None:
                return None
            if chunks:
                body = b"".join(chunks)
                parts.append(_HEADER.pack(0x80 | count, kind, len(body) // 4) + body)
        elif kind == GOODBYE:
            if at + 4 + 4 * count > stop:
                return None
            if count:
                parts.append(_HEADER.pack(0x80 | count, kind, count) + data[at + 4 : at + 4 + 4 * count])
        at = end
    return Compound(b"".join(parts), sent, echoes, lost, senders, about)


def _source_description(
    data: bytes, at: int, stop: int, count: int, pseudonym: Callable[[bytes], bytes]
) -> list[bytes] | None:
    """The chunks of an SDES packet with nothing but a pseudonymous CNAME each (RFC 3550 s.6.5)."""
    chunks: list[bytes] = []
    for _ in range(count):
        if at + 8 > stop:
            return None
        chunk = data[at : at + 4]
        at += 4
        while data[at] != 0:
            if at + 2 > stop or at + 2 + data[at + 1] >= stop:
                return None
            length = data[at + 1]
            if data[at] == _SDES_CNAME:
                name = pseudonym(data[at + 2 : at + 2 + length])[:255]
                chunk += bytes((_SDES_CNAME, len(name))) + name
            at += 2 + length
        # The list of items ends with one to four null octets, up to a 32-bit boundary.
        at += 4 - at % 4
        chunk += bytes(4 - len(chunk) % 4)
        chunks.append(chunk)
    return chunks


class RoundTrip:
    """Round trip between us and one end, by RFC 3550 s.6.4.1 with us in the middle.

    The relay writes no reports of its own. It notes when it passed a sender report on to this end; the end's
    report block echoes that report's timestamp (LSR) with its own delay (DLSR), and the rest of the time since
    then was spent on the way to that end and back.
    """

    __slots__ = ("_sent", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._sent: list[tuple[int, float]] = []

    def passed_on(self, sent: int, now: float) -> None:
        """A sender report with this NTP middle went to the end."""
        self._sent = [*self._sent[-3:], (sent, now)]

    def answered(self, echoes: list[tuple[int, int]], now: float) -> None:
        """The end sent these (LSR, DLSR) pairs."""
        for lsr, dlsr in echoes:
            for sent, at in self._sent:
                if sent == lsr:
                    seconds = now - at - dlsr / 65536
                    # The end rounds DLSR and its clock drifts: a hair below zero is a round trip of zero.
                    if -0.005 <= seconds <= MAX_ROUND_TRIP_S:
                        self.seconds = max(0.0, seconds)
