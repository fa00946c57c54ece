"""How each network sees us: listeners, addresses in Via and Contact, the domain in identities."""

from dataclasses import replace

from config.model import Config, Network
from nat.address import family, is_credible
from signaling.exchange import LegSettings
from signaling.flow import Address, Flow, Listener
from signaling.leg import Leg
from signaling.topology import Site


class Sites:
    """The SIP addresses of one configuration."""

    def __init__(self, config: Config) -> None:
        self.listeners = tuple(
            listener for network in config.networks.values() for listener in listeners_of(network)
        )
        self._by_flow = {
            (listener.network, listener.transport, listener.local): listener for listener in self.listeners
        }
        self._sites = {
            key: site_of(config.networks[listener.network], listener)
            for key, listener in self._by_flow.items()
        }
        self.symmetric = frozenset(
            name for name, network in config.networks.items() if network.nat == "far-end"
        )
        self._addresses = frozenset(
            text for listener in self.listeners for text in (listener.local[0], listener.advertised[0])
        )
        # What we may say to anybody: the guard does not take it for the other side's.
        self.own = self._addresses | frozenset(
            text
            for network in config.networks.values()
            for text in (network.domain, network.user_agent)
            if text is not None
        )
        self.own |= frozenset(trunk.domain for trunk in config.trunks.values() if trunk.domain is not None)
        if config.phones is not None and config.phones.domain is not None:
            self.own |= {config.phones.domain}

    def advertised(self, flow: Flow) -> Address:
        """What Via says of the listener that `flow` uses."""
        listener = self._by_flow.get((flow.network, flow.transport, flow.local))
        return flow.local if listener is None else listener.advertised

    def listens(self, flow: Flow) -> bool:
        """Whether `flow` is one of a listener of ours; one out of an earlier configuration may not be."""
        return (flow.network, flow.transport, flow.local) in self._sites

    def site(self, flow: Flow) -> Site:
        """How the peer at the other end of `flow` sees us."""
        return self._sites[flow.network, flow.transport, flow.local]

    def nat(self, network: str) -> bool:
        """Whether peers of this network may sit behind NAT."""
        return network in self.symmetric

    def flow_to(self, network: str, transport: str, remote: Address) -> Flow | None:
        """A flow from the first listener of that network, transport and address family."""
        for listener in self.listeners:
            if (
                listener.network == network
                and listener.transport == transport
                and (":" in listener.local[0]) == (":" in remote[0])
            ):
                return Flow(network, transport, listener.local, remote)
        return None

    def destination(self, leg: Leg) -> Flow:
        """Where a request inside the dialog of `leg` goes (RFC 3261 s.12.2.1.1, RFC 5923).

        A stream connection is used again; behind NAT the Contact says nothing, so the flow itself is the way;
        a Contact or Route that is a name is reached where its owner was last seen. So is one that would aim our
        request at ourselves, at the other networks or at no host at all. What only looks like an address
        (999.1.2.3) is a name: a socket would ask the DNS for it, and everything would wait.
        """
        flow = leg.flow
        if flow.reliable or self.nat(flow.network):
            return flow
        uri = leg.dialog.destination()
        if uri is None or uri.port == 0:
            return flow
        remote = (uri.host, uri.port or 5060)
        if remote == flow.remote or not self._may_follow(flow, uri.host):
            return flow
        return replace(flow, remote=remote)

    def _may_follow(self, flow: Flow, host: str) -> bool:
        """Whether requests may go to `host` because the peer of `flow` says so."""
        peer, ours = flow.remote[0], flow.local[0]
        if host == peer:
            return True
        if (":" in host) != (":" in ours) or family(host) != family(ours):
            return False
        return host not in self._addresses and is_credible(host, peer)


def listeners_of(network: Network) -> list[Listener]:
    """The SIP ports of a network, in the order of the configuration."""
    addresses = [(network.address, network.advertised)]
    if network.address6 is not None:
        addresses.append((network.address6, network.address6))
    return [
        Listener(network.name, listen.transport, (local, listen.port), (advertised, listen.port))
        for listen in network.listen
        for local, advertised in addresses
    ]


def site_of(network: Network, listener: Listener) -> Site:
    """The `Site` of one listener."""
    return Site(
        domain=network.domain or listener.advertised[0],
        contact=listener.advertised,
        transport=listener.transport,
        user_agent=network.user_agent,
    )


def leg_settings(config: Config) -> LegSettings:
    """The numbers of a leg, in seconds."""
    timers = config.timers
    return LegSettings(
        t1=timers.t1_ms / 1000,
        t2=timers.t2_ms / 1000,
        trying_timeout_s=timers.trying_timeout_s,
        no_answer_s=timers.no_answer_s,
        session_expires_s=timers.session_expires_s,
        min_se_s=timers.min_se_s,
        dialog_check_s=timers.dialog_check_s,
    )
