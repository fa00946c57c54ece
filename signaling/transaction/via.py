"""What Via is for: it names the transaction of a message, and the way back of its answer (RFC 3261 s.17, s.18.2.2)."""

import re
import zlib

from signaling.errors import ParseError
from signaling.flow import Flow
from signaling.headers import Via, parse_via, split_commas
from signaling.message import Request, Response
from signaling.transaction.tx import Key

MAGIC_COOKIE = "z9hG4bK"
# A request as we write it: our Via is the first line after the Request-Line.
_QUOTED = re.compile(rb"([A-Z]{1,16}) [^\r\n]*\r\nVia: [^\r\n]*;branch=(z9hG4bK[0-9A-Za-z]{8,64})[;\r]")
# The first Via of a request, on a line of its own (RFC 3261 s.7.3.1: another may go on with it).
_TOP_VIA = re.compile(
    rb"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*?(?:via|v)[ \t]*:[ \t]*([^\r\n]*)\r\n(?![ \t])", re.IGNORECASE
)
_RECEIVED = re.compile(r";[ \t]*received[ \t]*=[^;]*", re.IGNORECASE)
_EMPTY_RPORT = re.compile(r";[ \t]*rport[ \t]*(?=;|$)", re.IGNORECASE)


def client_key(response: Response) -> Key:
    """What RFC 3261 s.17.1.3 matches by: the branch of the top Via and the method of CSeq.

    Read from the text, since most responses come with our Via as we wrote it, and typed only when that fails.
    """
    value = response.get("Via") or ""
    cseq = response.get("CSeq") or ""
    _, found, rest = value.partition(";branch=")
    if not found or "," in value or '"' in value:
        return (response.via.branch, response.cseq.method)
    return (rest.partition(";")[0].rstrip(), cseq[cseq.rfind(" ") + 1 :])


def quoted_key(quoted: bytes) -> Key | None:
    """The same for the beginning of a request of ours; None where it is none."""
    found = _QUOTED.match(quoted)
    return None if found is None else (found[2].decode(), found[1].decode())


def invite_key(data: bytes, flow: Flow) -> Key | None:
    """`server_key` of an INVITE that nobody has parsed; None where only that could tell."""
    found = _TOP_VIA.match(data)
    if found is None:
        return None
    try:
        via = parse_via(split_commas(found[1].decode("utf-8", "surrogateescape"))[0])
    except ParseError:
        return None
    branch = via.branch
    if branch is None or not branch.startswith(MAGIC_COOKIE):
        return None
    return (branch, via.host, via.port, "INVITE", flow.network)


def server_key(request: Request, via: Via, method: str, flow: Flow) -> Key:
    """What RFC 3261 s.17.2.3 matches by. ACK and CANCEL get the key of their INVITE.

    The network is part of it: two networks may use the same private addresses.
    """
    if method in ("ACK", "CANCEL"):
        method = "INVITE"
    branch = via.branch
    if branch is not None and branch.startswith(MAGIC_COOKIE):
        return (branch, via.host, via.port, method, flow.network)
    # RFC 2543: no unique branch, so the request as a whole. A CANCEL matches whatever it cancels; that only an
    # INVITE can be is RFC 3261 s.9.1. The To tag of an ACK is compared with that of the answer.
    return (
        request.uri, request.from_.tag, request.call_id, request.cseq.number, via.host, via.port, branch, method,
        flow.network,
    )  # fmt: skip


def merge_key(request: Request, flow: Flow) -> Key:
    """What RFC 3261 s.8.2.2.2 knows a request by that came on two ways.

    The Request-URI is part of it: we stand for many user agents, and a proxy that forks to two of them sends us two
    requests that differ in nothing else.
    """
    cseq = request.cseq
    return (flow.network, request.call_id, request.from_.tag, cseq.number, cseq.method, request.uri)


def has_cookie(via: Via) -> bool:
    """Whether its branch is one of RFC 3261: unique by itself."""
    branch = via.branch
    return branch is not None and branch.startswith(MAGIC_COOKIE)


def stateless_tag(request: Request) -> str:
    """Our tag in an answer without a transaction: the same for a retransmission (RFC 3261 s.8.2.7)."""
    return f"{zlib.crc32(f'{request.via.branch} {request.call_id}'.encode(errors='replace')):08x}"


def way_back(request: Request, via: Via, flow: Flow, symmetric: bool) -> Flow:
    """Where answers to `request` go (RFC 3261 s.18.2.2, RFC 3581 s.4); completes its top Via.

    `symmetric` sends them where it came from also without rport. `maddr` is ignored: it would let a stranger aim
    our answers at anyone.
    """
    host, port = flow.remote
    asked = via.param("rport") is not None
    if asked or via.host != host:
        line = request.get("Via") or ""
        top, *rest = split_commas(line) if "," in line else [line]
        if asked:
            top = _EMPTY_RPORT.sub(f";rport={port}", top, count=1)
        if "received" in top.lower():
            top = _RECEIVED.sub("", top)  # that is not for the sender to say
        request.replace_first("Via", ", ".join([f"{top};received={host}", *rest]))
    if flow.reliable or asked or symmetric:
        return flow
    sent_by_port = via.port or 5060
    if sent_by_port == port:
        return flow
    return Flow(flow.network, flow.transport, flow.local, (host, sent_by_port), flow.connection)
