"""Which of our listeners carries a message to a peer. Free of I/O: the simulator asks the same question."""

from collections.abc import Iterable

from signaling.flow import Address, Flow, Listener


def choose_listener(
    listeners: Iterable[Listener], network: str, transport: str, remote: Address
) -> Listener | None:
    """The first listener of that network and transport with the address family of `remote`."""
    ipv6 = ":" in remote[0]
    for listener in listeners:
        if (
            listener.network == network
            and listener.transport == transport
            and (":" in listener.local[0]) == ipv6
        ):
            return listener
    return None


def flow_from(listener: Listener, remote: Address) -> Flow:
    """The flow from `listener` to `remote`; a stream connection is opened, or reused, on the first send."""
    return Flow(listener.network, listener.transport, listener.local, remote)
