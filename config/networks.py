"""The networks that we stand in: the section `networks`. Our addresses and ports there, and how peers see us."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from config.values import (
    AUTO,
    RANGE_SCHEMA,
    Advertised,
    Domain,
    HostAddress,
    Listen,
    Listeners,
    Model,
    Name,
    PortRange,
    Prefixes,
    Secret,
    StunServers,
    Text,
    TurnUri,
    bad,
)


class Turn(Model):
    """A TURN relay of ours: all media of the network goes through it."""

    server: Annotated[
        TurnUri, Field(description="Its URI (RFC 7065), like turn:turn.example.com:3478?transport=udp.")
    ]
    username: Annotated[Text | None, Field(min_length=1, description="User, with `password`.")] = None
    password: Annotated[Secret | None, Field(description="Long-term password of `username`.")] = None
    secret: Annotated[
        Secret | None,
        Field(
            description="Shared with the server instead of username and password (coturn: static-auth-secret); "
            "credentials are made from it."
        ),
    ] = None
    refuse: Annotated[
        Prefixes,
        Field(
            description="Peers that the relay is never asked to send to, like [10.0.0.0/8]: what it reaches and "
            "callers must not. Our own addresses, loopback, link-local, 0.0.0.0 and :: never are."
        ),
    ] = ()

    @model_validator(mode="after")
    def _one_way_in(self) -> "Turn":
        if self.secret is not None and (self.username is not None or self.password is not None):
            raise bad("incomplete", "both secret and username or password; write one of them")
        if self.secret is None and (self.username is None or self.password is None):
            raise bad("incomplete", "write username and password, or secret")
        return self


class Network(Model):
    """A network that we stand in: our addresses and ports there, and how its peers see us."""

    name: SkipJsonSchema[Annotated[Name, Field(description="Set from the key.")]]
    address: Annotated[
        HostAddress,
        Field(description="Our IP address in this network, IPv4 or IPv6. Give either this or `interface`."),
    ] = ""
    interface: Annotated[
        Text | None,
        Field(description="Network interface whose first address is ours, instead of `address`."),
    ] = None
    address6: Annotated[
        HostAddress | None,
        Field(description="A second address of ours, IPv6, when `address` is IPv4: SIP and media use both."),
    ] = None
    advertise: Annotated[
        Advertised | None,
        Field(
            description="Address that peers reach us at, when it differs from `address` (1:1 NAT). Written to "
            "Via, Contact and SDP. auto: what `stun_servers` see. None: `address`."
        ),
    ] = None
    stun_servers: Annotated[
        StunServers,
        Field(description="STUN servers that tell our address, host:port, for `advertise: auto`."),
    ] = ()
    stun: Annotated[
        bool,
        Field(
            strict=True,
            description="Answer STUN Binding requests on the UDP ports of SIP and of media, if they are no shorter "
            "than the answer (32 bytes, with IPv6 44), so that nobody is flooded through us. Registered phones are "
            "answered anyway (RFC 5626).",
        ),
    ] = False
    turn: Annotated[
        Turn | None,
        Field(
            description="TURN relay that all media of this network goes through, with two allocations for each end of "
            "a stream, of the family (IPv4 or IPv6) of `address`. None: media goes directly."
        ),
    ] = None
    learned: SkipJsonSchema[
        Annotated[str, Field(description="For `advertise: auto`: what STUN found; empty before.")]
    ] = ""
    relayed: SkipJsonSchema[
        Annotated[str, Field(description="With `turn`: our address at the relay; empty before it is known.")]
    ] = ""
    moves: SkipJsonSchema[
        Annotated[
            int, Field(description="How often a reload has given its media other addresses or a relay.")
        ]
    ] = 0
    listen: Annotated[
        Listeners,
        Field(description="SIP ports, as transport:port; transports are udp and tcp."),
    ] = (Listen(transport="udp", port=5060), Listen(transport="tcp", port=5060))
    media_ports: Annotated[
        PortRange,
        WithJsonSchema(RANGE_SCHEMA),
        Field(
            description="UDP ports for media, FIRST-LAST; a stream takes an even port and the next odd one."
        ),
    ] = PortRange(first=20000, last=39999)
    media_address: Annotated[
        HostAddress | None, Field(description="Address of ours for media. None: the same as for SIP.")
    ] = None
    media_address6: Annotated[
        HostAddress | None, Field(description="IPv6 address of ours for media. None: `address6`.")
    ] = None
    nat: Annotated[
        Literal["none", "far-end"],
        Field(
            description="far-end: peers may sit behind NAT, so SIP answers and media go to where their "
            "packets really come from. none: what peers write in SIP and SDP is right."
        ),
    ] = "none"
    telephone_event: Annotated[
        Literal["kernel", "process"],
        Field(
            description="Who forwards the digits (RFC 4733) of parties here when the kernel forwards their audio; "
            "process: the relay process, so that rules of nftables on this host see them."
        ),
    ] = "kernel"
    domain: Annotated[
        Domain | None,
        Field(description="Host name in From, To and identity headers sent here. None: our address."),
    ] = None
    user_agent: Annotated[
        Text | None, Field(description="Value of User-Agent and Server sent here. None: neither is sent.")
    ] = None

    @model_validator(mode="after")
    def _one_way_to_an_address(self) -> "Network":
        if not self.address and self.interface is None:
            raise bad(
                "incomplete", "no address; write address: with one of our own, or interface: with its name"
            )
        return self

    @property
    def advertised(self) -> str:
        """The address that peers reach us at, as far as it is known: `address` until STUN has answered."""
        return (self.learned if self.advertise == AUTO else self.advertise) or self.address

    @property
    def sip_addresses(self) -> tuple[str, ...]:
        """Our addresses for SIP that are known so far (none while `interface` is not resolved)."""
        return tuple(x for x in (self.address, self.address6) if x)

    @property
    def media_addresses(self) -> tuple[str, ...]:
        """Our addresses for media that are known so far; none where a relay has them."""
        if self.turn is not None:
            return ()
        return tuple(
            x for x in (self.media_address or self.address, self.media_address6 or self.address6) if x
        )
