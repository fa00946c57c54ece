"""Bodies of several parts (RFC 5621, RFC 2046 s.5.1): finding the one that we serve."""

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
    delimiter = b"--" + boundary.encode("utf-8", "surrogateescape")
    for part in (b"\r\n" + body).split(b"\r\n" + delimiter, MAX_PARTS)[1:MAX_PARTS]:
        if part.startswith(b"--"):
            break
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            continue
        for line in head.split(b"\r\n"):
            name_bytes, _, value_bytes = line.partition(b":")
            if name_bytes.strip().lower() in (b"content-type", b"c"):
                kind = value_bytes.partition(b";")[0].strip().lower()
                if kind == wanted.encode():
                    return content
    return None
