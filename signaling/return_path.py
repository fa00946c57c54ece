"""Who has shown that what we send arrives at him (return routability): the answer to a forged UDP source.

A datagram's source is only a claim. RFC 3261 s.17.2.1 and s.13.3.1.4 repeat the final answer of an INVITE for 32 s,
so one forged INVITE would make us throw a dozen messages at a victim who never asked. A host is believed once it
has sent something that only a receiver of ours can know: our tag, or our branch. The others get a final answer
`UNPROVEN_REPEATS` times more and no further, which is enough for who is there and answers. The same holds for
our requests inside a dialog: the Contact that they go to is a claim too.
"""

from collections import OrderedDict

UNPROVEN_REPEATS = 3
MAX_PROVEN = 10_000


class ReturnPaths:
    """The hosts that have shown it, by network; the one unheard for longest is forgotten first."""

    __slots__ = ("_proven",)

    def __init__(self) -> None:
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._proven)

    def prove(self, network: str, host: str) -> None:
        """`host` knows what we sent there."""
        key = (network, host)
        if key in self._proven:
            self._proven.move_to_end(key)
            return
        self._proven[key] = None
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)

    def proven(self, network: str, host: str) -> bool:
        """Whether it has shown that."""
        return (network, host) in self._proven
