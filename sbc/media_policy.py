"""Policy of media: our addresses in each network, codecs, silence limits, and whose packets are believed.

Whose packets (design.md s.4.6)

    network     c= of the peer                      learn   expect          send to before that
    plain       an address                          PORT    that address    c= and m=
    far-end     the address that SIP comes from     PORT    that address    c= and m=
    far-end     another address, public             PORT    SIP source      c= and m=
    far-end     another address, private            PORT    SIP source      nowhere: it means nothing here
    far-end     the same, SIP source not known      ANY     nobody          likewise
    far-end     of the other family than SIP        PORT    c=              c= and m=
    either      the same two, but the peer cannot   PORT    c=              nowhere: whoever is there has not
                be there: `nat.address.is_credible`                         asked for it
    either      a host name                         PORT    SIP source      nowhere: it is not resolved
    either      0.0.0.0 or :: (hold)                as before the hold; in a first SDP as for a host name

ANY lets whoever is first have the call: where it is known who the peer is, media from elsewhere is a stranger's,
however late the peer begins to talk. The host in c= is believed beside the expected one.

PORT and not OFF in a plain network, since phones without symmetric RTP (RFC 4961) send from another port than
they listen on: the address stays the signalled one, the port may differ.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from config.frozen import frozen
from config.model import Config, Network
from media.relay import Learn, PortPair
from nat.address import is_behind_nat, is_credible
from signaling.sdp.session import Connection, normal_host


@frozen
class MediaAddress:
    """One of our media addresses in a network: the `pool` that its ports come from and how peers know it."""

    pool: str
    advertised: str

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.advertised else 4


@frozen
class MediaPolicy:
    """What the configuration says of media. Calls in progress keep the policy that they began with.

    `addresses` by network, the preferred family first. `codecs` are the encoding names that may be used, None
    for all. Times in seconds, 0 for no limit; `hold_s` replaces the others while one direction is off. `events_up` are
    the networks whose parties' telephone-events are for the relay process.
    """

    addresses: Mapping[str, tuple[MediaAddress, ...]]
    codecs: tuple[str, ...] | None = None
    window_s: float = 10.0
    start_s: float = 60.0
    silence_s: float = 60.0
    hold_s: float = 0.0
    events_up: frozenset[str] = frozenset()

    @property
    def allowed(self) -> frozenset[str] | None:
        """The codec names in upper case, as `signaling.sdp.offer_answer.describe` wants them."""
        return None if self.codecs is None else frozenset(name.upper() for name in self.codecs)

    def address(self, network: str, family: int | None = None) -> MediaAddress | None:
        """Our address of that family in a network, or its first one."""
        for address in self.addresses.get(network, ()):
            if family is None or address.family == family:
                return address
        return None

    def beside(self, before: "MediaPolicy", networks: Collection[str]) -> "MediaPolicy":
        """The same with our addresses of before in these `networks`, for calls that have begun without media yet."""
        left = {name: found for name, found in before.addresses.items() if name in networks}
        return replace(self, addresses={**left, **self.addresses})

    def advertised(self, pair: PortPair) -> str:
        """How peers know the address of one of our ports; the bound one, if that is not ours any more."""
        for addresses in self.addresses.values():
            for address in addresses:
                if address.pool == pair.network:
                    return address.advertised
        return pair.host

    @classmethod
    def of_config(cls, config: Config) -> "MediaPolicy":
        """The policy of a configuration."""
        timers = config.timers
        return cls(
            {network.name: tuple(_addresses(network)) for network in config.networks.values()},
            config.media.codecs,
            timers.learn_window_s,
            timers.rtp_start_s,
            timers.rtp_silence_s,
            timers.rtp_hold_s,
            frozenset(each.name for each in config.networks.values() if each.telephone_event == "process"),
        )


def media_ranges(config: Config) -> dict[str, tuple[str, int, int]]:
    """What `PortPool` hands out for a configuration: one pool for each media address of each network."""
    return {
        pool_of(network, number): (host, network.media_ports.first, network.media_ports.last)
        for network in config.networks.values()
        for number, host in enumerate(network.media_addresses)
    }


def simulated_ranges(config: Config) -> dict[str, tuple[str, int, int]]:
    """The same where nobody asks TURN relays for the ports that they have: the range of the file stands in for them."""
    relayed = {
        pool_of(network): (network.address, network.media_ports.first, network.media_ports.last)
        for network in config.networks.values()
        if network.turn is not None
    }
    return {**media_ranges(config), **relayed}


def stun_hosts(config: Config) -> list[str]:
    """Our media addresses on whose ports STUN is answered."""
    return [host for network in config.networks.values() if network.stun for host in network.media_addresses]


def pool_of(network: Network, number: int = 0) -> str:
    """The pool of the ports of one media address.

    After a reload that moves the media of a network, calls in progress go on with the pool that they began with.
    """
    name = f"{network.name}~{network.moves}" if network.moves else network.name
    return f"{name}#{number + 1}" if number else name


def _addresses(network: Network) -> Iterator[MediaAddress]:
    if network.turn is not None:
        # Before the relay's address is known there are no ports of it to be had either.
        yield MediaAddress(pool_of(network), network.relayed or network.address)
    for number, host in enumerate(network.media_addresses):
        # 1:1 NAT maps the address of the network; an address that media has for itself is not behind it.
        mapped = number == 0 and network.media_address is None
        yield MediaAddress(pool_of(network, number), network.advertised if mapped else host)


@frozen
class Trust:
    """Whose packets are believed, and whether the signalled address is worth sending to. `why` for people."""

    learn: Learn
    expect: str | None
    reachable: bool
    why: str


def trust(connection: Connection, peer: str | None, nat: bool) -> Trust:
    """The table above for one end. `peer` is the host that its SIP comes from."""
    known = None if peer is None else normal_host(peer)
    host = connection.host
    if connection.named or connection.unspecified:
        if known is None:
            return Trust(Learn.OFF, None, False, "no address signalled")
        return Trust(Learn.PORT, known, False, "no address signalled, SIP source expected")
    if known == host:
        return Trust(Learn.PORT, host, True, "signalled address expected")
    if not nat or (known is not None and (":" in known) != (":" in host)):
        if known is not None and not is_credible(host, known):
            return Trust(Learn.PORT, host, False, "signalled address is of another network than the peer")
        return Trust(Learn.PORT, host, True, "signalled address expected")
    learn = Learn.ANY if known is None else Learn.PORT
    if is_behind_nat(host):
        return Trust(learn, known, False, "signalled address is private: behind NAT")
    return Trust(learn, known, True, "signalled address is not the SIP source: maybe behind NAT")
