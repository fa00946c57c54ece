"""Requests that are answered without a transaction, from bytes to bytes (RFC 3261 s.8.2.6, s.8.2.7).

OPTIONS and REGISTER outside any dialog are most of what an edge gets, nearly all of them written in one plain way. They
are read here for what an answer repeats, and no more. Whatever is written otherwise (folded or unknown lines, several
Vias, a body, text that is no ASCII) is None here and goes the long way through `parse` and `Transactions`, which
answers it alike.
"""

import zlib
from collections.abc import Iterable
from typing import Final

from signaling.flow import Flow
from signaling.message import Field

METHODS: Final = (b"OPTIONS ", b"REGISTER ")
"""How requests begin that may be worth no more than a glance."""
MAX_BYTES: Final = 4096
# What `read` does with a line: constants, since a module's name is looked up each time that it is used.
_VIA: Final = 1
_FROM: Final = 2
_TO: Final = 3
_CALL_ID: Final = 4
_CSEQ: Final = 5
_AUTHORIZATION: Final = 6
_LENGTH: Final = 7
_MAX_FORWARDS: Final = 8
_OTHER: Final = 9
_KINDS: Final[dict[str, int]] = {
    "Via": _VIA, "v": _VIA, "From": _FROM, "f": _FROM, "To": _TO, "t": _TO, "Call-ID": _CALL_ID, "i": _CALL_ID,
    "CSeq": _CSEQ, "Authorization": _AUTHORIZATION, "Content-Length": _LENGTH, "l": _LENGTH,
    "Max-Forwards": _MAX_FORWARDS,
    **dict.fromkeys(
        ("Contact", "m", "Expires", "User-Agent", "Supported", "k", "Allow", "Allow-Events", "u",
         "Accept", "Accept-Encoding", "Accept-Language", "Organization", "Require", "Path", "Privacy", "Route",
         "P-Preferred-Identity", "P-Access-Network-Info", "Server", "Subject", "s", "Date"),
        _OTHER,
    ),
}  # fmt: skip
"""The header names of plain requests as they are usually written. Names that are not here go the long way."""
_UDP: Final = "SIP/2.0/UDP "
_COOKIE: Final = ";branch=z9hG4bK"


class Plain:
    """A plain request. `via` is complete as answers repeat it, and `sent_by` what it says of its sender.

    `sender` is From without its tag. `others` are the lines that no answer repeats, in their order.
    """

    __slots__ = (
        "authorization",
        "call_id",
        "cseq",
        "data",
        "from_",
        "method",
        "number",
        "others",
        "sender",
        "sent_by",
        "to",
        "uri",
        "via",
    )

    def __init__(
        self,
        data: bytes,
        method: str,
        uri: str,
        via: str,
        sent_by: str,
        from_: str,
        sender: str,
        to: str,
        call_id: str,
        cseq: str,
        number: int,
        authorization: str,
        others: list[str],
    ) -> None:
        self.data = data
        self.method = method
        self.uri = uri
        self.via = via
        self.sent_by = sent_by
        self.from_ = from_
        self.sender = sender
        self.to = to
        self.call_id = call_id
        self.cseq = cseq
        self.number = number
        self.authorization = authorization
        self.others = others

    def answer(self, status: str, fields: str) -> bytes:
        """The answer with this status and reason and these lines, each with its CRLF.

        Its tag is made of the request, so that one that is repeated gets the same (s.8.2.7).
        """
        tag = zlib.crc32(self.data)
        return (
            f"SIP/2.0 {status}\r\nVia: {self.via}\r\nFrom: {self.from_}\r\nTo: {self.to};tag={tag}\r\n"
            f"Call-ID: {self.call_id}\r\nCSeq: {self.cseq}\r\n{fields}Content-Length: 0\r\n\r\n"
        ).encode()


def lines(fields: Iterable[Field]) -> str:
    """Header fields as `Plain.answer` takes them."""
    return "".join([f"{name}: {value}\r\n" for name, value in fields])


def read(data: bytes, flow: Flow, max_headers: int) -> Plain | None:
    """The plain request that a datagram holds. None for everything else, also for what is none at all."""
    if len(data) > MAX_BYTES or not data.isascii():
        return None
    split = data.decode("ascii").split("\r\n")
    last = len(split) - 2
    # One empty line and nothing behind it; and no CR or LF but those of the line ends.
    if last < 6 or last > max_headers + 1 or split[last] or split[last + 1]:
        return None
    joined = "".join(split)
    if "\n" in joined or "\r" in joined or "\0" in joined:
        return None
    kinds = _KINDS
    via = from_ = to = call_id = cseq = authorization = ""
    others: list[str] = []
    length = hops = False
    for index in range(1, last):
        line = split[index]
        name, colon, value = line.partition(":")
        kind = kinds.get(name)
        if kind is None or not colon:
            return None
        if kind == _OTHER:
            others.append(line)
            continue
        value = value.strip(" \t")
        if not value:
            return None
        if kind == _VIA:
            if via:
                return None
            via = value
        elif kind == _FROM:
            if from_:
                return None
            from_ = value
        elif kind == _TO:
            if to:
                return None
            to = value
        elif kind == _CALL_ID:
            if call_id:
                return None
            call_id = value
        elif kind == _CSEQ:
            if cseq:
                return None
            cseq = value
        elif kind == _AUTHORIZATION:
            if authorization:
                return None
            authorization = value
        elif kind == _MAX_FORWARDS:
            if hops:
                return None
            hops = True
            others.append(line)
        elif length or value != "0":
            return None
        else:
            length = True
    # To without a tag: a URI in brackets and nothing behind it.
    if not via or not call_id or not to.endswith(">") or "<" not in to:
        return None
    start = split[0]
    method, _, rest = start.partition(" ")
    uri, _, version = rest.partition(" ")
    number, _, named = cseq.partition(" ")
    if version != "SIP/2.0" or named != method or not number.isdigit() or len(number) > 9:
        return None
    if ":" not in uri or "<" in uri or ">" in uri or '"' in uri or not uri.isprintable():
        return None
    sender, found, tag = from_.partition(">;tag=")
    if not found or not tag or ";" in tag or ">" in tag or '"' in tag:
        return None
    begin = via.find(";")
    if not via.startswith(_UDP) or begin < 0 or _COOKIE not in via or "," in via or '"' in via:
        return None
    sent_by = via[12:begin]
    host, port = flow.remote
    at = via.find(";rport", begin)
    if at >= 0:
        # RFC 3581 s.4: the answer goes where the request came from, and says so.
        at += 6
        if via[at : at + 1] not in ("", ";"):
            return None
        if "received" in via.lower():
            return None  # a parameter must not stand there twice: the long way takes it out
        via = f"{via[:at]}={port}{via[at:]};received={host}"
    elif sent_by != f"{host}:{port}" or "port" in via.lower():
        return None
    return Plain(
        data, method, uri, via, sent_by, from_, sender, to, call_id, cseq, int(number), authorization, others,
    )  # fmt: skip
