"""Bodies of several parts (RFC 5621, RFC 2046 s.5.1): finding the one that we serve."""

import re
from itertools import islice

from signaling.errors import PeerError

MAX_PARTS = 16


def part_of(content_type: str, body: bytes, wanted: str) -> bytes | None:
    """The content of the first part of type `wanted`, None where there is none; 400 without a boundary."""
    boundary = ""
    for param in content_type.split(";")[1:]:
        name, _, value = param.partition("=")
        if name.strip().lower() == "boundary":
            boundary = value.strip().strip('"')
    if not 0 < len(boundary) <= 70:
        raise PeerError(400, "multipart body without boundary", "bad-multipart")
    line = re.escape(b"\r\n--" + boundary.encode("utf-8", "surrogateescape"))
    # RFC 2046 s.5.1.1: white space may follow; anything else is the boundary of an inner multipart.
    delimiter = re.compile(line + rb"(--)?[ \t]*(?=\r\n|\Z)")
    whole = b"\r\n" + body
    found = list(islice(delimiter.finditer(whole), MAX_PARTS + 1))
    # Some senders leave the last delimiter out.
    ends = [*(mark.start() for mark in found[1:]), len(whole)]
    for opening, end in zip(found[:MAX_PARTS], ends, strict=False):
        if opening[1]:
            break
        head, separator, content = whole[opening.end() : end].partition(b"\r\n\r\n")
        if separator and media_type(head) == wanted.encode():
            return content
    return None


def media_type(head: bytes) -> bytes:
    """The media type in the header of a part, in lower case without parameters."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"content-type", b"c"):
            return value.partition(b";")[0].strip().lower()
    return b""
