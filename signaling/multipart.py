"""Bodies of several parts (RFC 5621, RFC 2046 s.5.1): finding the one that we serve."""

import re
from itertools import islice

from signaling.errors import PeerError

MAX_PARTS = 16


def part_of(content_type: str, body: bytes, wanted: str) -> bytes | None:
    """The content of the first part of type `wanted`, None where there is none; 400 without a boundary."""
    found = parts_of(content_type, body, wanted, 1)
    return found[0] if found else None


def parts_of(content_type: str, body: bytes, wanted: str, most: int = MAX_PARTS) -> list[bytes]:
    """The contents of the first `most` parts of type `wanted`, in their order; 400 without a boundary."""
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
    marks = list(islice(delimiter.finditer(whole), MAX_PARTS + 1))
    # Some senders leave the last delimiter out.
    ends = [*(mark.start() for mark in marks[1:]), len(whole)]
    found: list[bytes] = []
    for opening, end in zip(marks[:MAX_PARTS], ends, strict=False):
        if opening[1] or len(found) == most:
            break
        head, separator, content = whole[opening.end() : end].partition(b"\r\n\r\n")
        if separator and media_type(head) == wanted.encode():
            found.append(content)
    return found


def media_type(head: bytes) -> bytes:
    """The media type in the header of a part, in lower case without parameters."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"content-type", b"c"):
            return value.partition(b";")[0].strip().lower()
    return b""
