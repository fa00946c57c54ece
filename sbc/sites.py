"""How each network sees us: listeners, addresses in Via and Contact, the domain in identities.

After a reload calls, registrations and transactions go on by flows of listeners that are not configured any more, or
have become those of a network with another name. They are `former` then, until `forget` is told that none is in use.
"""

from collections.abc import Iterable
from dataclasses import replace

from config.model import Config, Network
from nat.address import family, is_credible
from signaling.exchange import LegSettings
from signaling.flow import Address, Flow, Listener, flow_from
from signaling.site import Site
from signaling.usage import Usage

Place = tuple[str, str, Address]
"""Network, transport and bound address: what the flows of one listener have in common."""


class Sites:
    """The SIP addresses of one configuration, and those of the configurations before it that are still in use."""

    def __init__(self, config: Config, before: "Sites | None" = None) -> None:
        self.listeners = tuple(
            listener for network in config.networks.values() for listener in listeners_of(network)
        )
        self._by_flow = {place_of(listener): listener for listener in self.listeners}
        self._sites = {
            key: site_of(config.networks[listener.network], listener)
            for key, listener in self._by_flow.items()
        }
        self.symmetric = frozenset(
            name for name, network in config.networks.items() if network.nat == "far-end"
        )
        self._anybody = config.phones is not None and config.phones.calls == "any"
        self.former = self._left_over(before)
        self.former_names: dict[str, tuple[str, ...]] = {}
        if before is not None:
            self._inherit(before)
        self._addresses = frozenset(
            text
            for listener in (*self.listeners, *self.former)
            for text in (listener.local[0], listener.advertised[0])
        )
        # What we may say to anybody: the guard does not take it for the other side's.
        self.own = self._addresses | frozenset(
            text
            for site in self._sites.values()
            for text in (site.domain, site.user_agent)
            if text is not None
        )
        self.own |= frozenset(trunk.domain for trunk in config.trunks.values() if trunk.domain is not None)
        if config.phones is not None and config.phones.domain is not None:
            self.own |= {config.phones.domain}

    def _left_over(self, before: "Sites | None") -> tuple[Listener, ...]:
        if before is None:
            return ()
        former = {place_of(listener): listener for listener in (*before.former, *before.listeners)}
        return tuple(listener for place, listener in former.items() if place not in self._by_flow)

    def _inherit(self, before: "Sites") -> None:
        """Know what is left over from the configuration before."""
        present = {listener.network for listener in self.listeners}
        for listener in self.former:
            place = place_of(listener)
            self._by_flow[place] = listener
            self._sites[place] = before._sites[place]
            if listener.network not in present and before.nat(listener.network):
                self.symmetric |= {listener.network}
        self._name()

    def _name(self) -> None:
        names = {(listener.transport, listener.local): listener.network for listener in self.listeners}
        found: dict[str, list[str]] = {}
        for listener in self.former:
            name = names.get((listener.transport, listener.local))
            if name is not None:
                found.setdefault(name, []).append(listener.network)
        self.former_names = {name: tuple(dict.fromkeys(former)) for name, former in found.items()}

    def forget(self, in_use: Iterable[Flow], still_open: Iterable[Listener] = ()) -> None:
        """Only these flows and former listeners are still in use: what else is left over is not ours any more."""
        if not self.former:
            return
        used: set[Place] = {(flow.network, flow.transport, flow.local) for flow in in_use}
        used.update(place_of(listener) for listener in still_open)
        gone = [listener for listener in self.former if place_of(listener) not in used]
        self.former = tuple(listener for listener in self.former if place_of(listener) in used)
        for listener in gone:
            del self._by_flow[place_of(listener)]
            del self._sites[place_of(listener)]
        self._name()

    def same_network(self, before: Flow, now: Flow) -> bool:
        """Whether a message that came by `now` can be of what was begun by `before`: a network may be renamed."""
        return before.network == now.network or before.network in self.former_names.get(now.network, ())

    def new_name(self, flow: Flow) -> Flow:
        """The same flow as messages have it that come by it now."""
        if self.is_former(flow):
            for listener in self.listeners:
                if (listener.transport, listener.local) == (flow.transport, flow.local):
                    return replace(flow, network=listener.network)
        return flow

    def is_former(self, flow: Flow) -> bool:
        """Whether `flow` is of a listener that takes nothing new any more."""
        return bool(self.former) and any(
            (listener.local, listener.transport, listener.network)
            == (flow.local, flow.transport, flow.network)
            for listener in self.former
        )

    def advertised(self, flow: Flow) -> Address:
        """What Via says of the listener that `flow` uses."""
        listener = self._by_flow.get((flow.network, flow.transport, flow.local))
        return flow.local if listener is None else listener.advertised

    def listens(self, flow: Flow) -> bool:
        """Whether `flow` is one of a listener of ours, a former one or not; one that was stored may not be."""
        return (flow.network, flow.transport, flow.local) in self._sites

    def site(self, flow: Flow) -> Site:
        """How the peer at the other end of `flow` sees us."""
        return self._sites[flow.network, flow.transport, flow.local]

    def of_phone(self, flow: Flow) -> Site:
        """The same of a phone, which is not believed what it asserts of itself unless anybody may call."""
        site = self.site(flow)
        return site if self._anybody else replace(site, trusted=False)

    def nat(self, network: str) -> bool:
        """Whether peers of this network may sit behind NAT."""
        return network in self.symmetric

    def flow_to(self, network: str, transport: str, remote: Address) -> Flow | None:
        """A flow from the first listener of that network, transport and address family.

        A call that began in a network which is not configured any more goes on there.
        """
        listeners = self.listeners
        if self.former and all(listener.network != network for listener in listeners):
            listeners = self.former
        return flow_from(listeners, network, transport, remote)

    def destination(self, leg: Usage) -> Flow:
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


def place_of(listener: Listener) -> Place:
    """What flows of this listener have in common."""
    return listener.network, listener.transport, listener.local


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
