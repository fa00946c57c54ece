"""Where the media bench happens: phones in `public` and `private`, the relay in `sbc`, and a cable past it."""

from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES, Namespaces

DIRECT = {PUBLIC: "192.0.2.1", PRIVATE: "192.0.2.2"}
"""The addresses of the phones on the cable from side to side."""
PHONES = {PUBLIC: SIDES[PUBLIC].peer, PRIVATE: SIDES[PRIVATE].peer}
"""Their addresses on the way through the relay."""


class Place(Namespaces):
    """The three namespaces of the lab, and a cable between the phones for the run without a relay.

    Programs of tests.bench.systems run in `sbc`.
    """

    def __enter__(self) -> "Place":
        super().__enter__()
        try:
            public, private = self.full_name(PUBLIC), self.full_name(PRIVATE)
            cable = ("link", "add", "direct", "netns", public, "type", "veth", "peer", "name", "direct")
            self.run(PUBLIC, "ip", *cable, "netns", private)
            for side, address in DIRECT.items():
                self.run(side, "ip", "address", "add", f"{address}/24", "dev", "direct")
                self.run(side, "ip", "link", "set", "direct", "up")
        except BaseException:
            self.close()
            raise
        return self

    def full_name(self, name: str) -> str:
        """The name of a namespace on this machine; systems under test are in `sbc`."""
        return super().full_name(name if name in (PUBLIC, PRIVATE) else SBC)

    def listening(self) -> str:
        """The UDP sockets in `sbc` that are bound, as `ss` lists them."""
        return self.run(SBC, "ss", "-uln")
