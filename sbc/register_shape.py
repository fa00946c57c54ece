"""What two REGISTERs of a phone have alike: all but what is new in each, as one number.

From one to the next a phone writes another branch, tag, CSeq, digest, and perhaps another Call-ID; everything else
comes out the same, and so means the same. `shape_of` and `plain_shape` make one number of it, out of a parsed request
and out of one that is read no further than `signaling.stateless` does. They agree on requests that are written plainly.
"""

from signaling.message import Request, key_of
from signaling.stateless import Plain

_NEW = frozenset(("via", "from", "to", "call-id", "cseq", "authorization", "content-length"))


def plain_shape(plain: Plain, era: str) -> int:
    """The shape of a plain REGISTER. `era` stands for the configuration that it is read by."""
    return _shape(era, plain.uri, plain.sent_by, plain.sender, plain.to, plain.others)


def shape_of(request: Request, era: str) -> int:
    """The same of a parsed one, whose top Via may have been completed; never 0, which stands for none."""
    via = request.get("Via") or ""
    sent_by = via.partition(";")[0].rpartition(" ")[2]
    sender = (request.get("From") or "").partition(">;tag=")[0]
    others = [f"{name}: {value}" for name, value in request.fields if key_of(name) not in _NEW]
    return _shape(era, request.uri, sent_by, sender, request.get("To") or "", others)


def _shape(era: str, uri: str, sent_by: str, sender: str, to: str, others: list[str]) -> int:
    # Python's hash of text has a secret key, so that nobody can make two that are alike.
    return hash("\n".join([era, uri, sent_by, sender, to, *others])) or 1
