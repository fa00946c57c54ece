"""A flow: the one way back to a peer, whatever carries it."""

from collections.abc import Iterable

from config.frozen import frozen

Address = tuple[str, int]
"""(literal IPv4 or IPv6 address without brackets, port)."""


@frozen
class Flow:
    """One of our listeners and one remote address (RFC 5626 s.3, for every transport).

    `network` is the name of the network in the configuration, `transport` is "udp" or "tcp" (later "tls", "ws",
    "wss"), `local` the bound address of our listener, `connection` the number of the stream connection, 0 for
    datagrams and for a stream connection that has yet to be opened.
    """

    network: str
    transport: str
    local: Address
    remote: Address
    connection: int = 0

    def __eq__(self, other: object) -> bool:
        # Written out: every response is compared with where its request went.
        if self is other:
            return True
        return (
            isinstance(other, Flow)
            and self.remote == other.remote
            and self.local == other.local
            and self.network == other.network
            and self.transport == other.transport
            and self.connection == other.connection
        )

    def __hash__(self) -> int:
        return hash(self.remote)

    @property
    def reliable(self) -> bool:
        """Whether the transport retransmits for us (RFC 3261 s.17)."""
        return self.transport != "udp"


@frozen
class Listener:
    """One bound SIP port: `local` is bound, `advertised` is what Via and Contact say (RFC 3261 s.18.1.1)."""

    network: str
    transport: str
    local: Address
    advertised: Address


def flow_from(listeners: Iterable[Listener], network: str, transport: str, remote: Address) -> Flow | None:
    """The flow to `remote` from the first listener of that network, transport and address family; None without one."""
    ipv6 = ":" in remote[0]
    for one in listeners:
        if one.network == network and one.transport == transport and (":" in one.local[0]) == ipv6:
            return Flow(network, transport, one.local, remote)
    return None


def host_port(address: Address) -> str:
    """`address` as SIP writes it: brackets round IPv6 (RFC 3261 s.25.1 hostport)."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
