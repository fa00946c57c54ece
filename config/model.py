"""What the configuration is made of: every key with its unit, its default and what it does.

The models are frozen and hold checked values only. `config.load` makes them from YAML, `config.check`
compares them with each other, `config.reference` turns the descriptions below into documentation.

Some fields are written in the file in a shorter form than they have here: `udp:5060` is a `Listen`,
`20000-39999` a `PortRange`, `sip:10.0.0.20` a `SipServer`, `198.51.100.0/24` a network of `ipaddress`,
`stun.example.com:3478` a `StunServer`, `turn:turn.example.com` a `TurnServer`. Passwords are `SecretStr`.

The sections `networks`, `trunks` and `phones` (with `emergency`) are in the modules of these names, but every model can
be had from here. In routes `phones` stands for the phones.
What the file leaves open and is found out later, is a method: `Network.advertised` is the address that peers see
(for `advertise: auto` what STUN found), `Config.phones_domain` the domain of the phones' addresses of record.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator
from pydantic.json_schema import SkipJsonSchema

from config.networks import Network, Turn
from config.phones import LOCAL, PHONES, Algorithm, Emergency, Phones, PhonesTurn, User
from config.trunks import Check, Credentials, Register, Trunk
from config.values import (
    AUTO,
    MAX_NAMES,
    Count,
    Listen,
    Model,
    Name,
    Names,
    Pattern,
    PortRange,
    Positive,
    PositiveSeconds,
    Rate,
    Seconds,
    SipServer,
    StunServer,
    Text,
    TurnServer,
    WholeSeconds,
    as_list,
    bad,
    named,
)

__all__ = [
    "AUTO",
    "LOCAL",
    "PHONES",
    "Algorithm",
    "Check",
    "Config",
    "Credentials",
    "Emergency",
    "Listen",
    "Network",
    "Phones",
    "PhonesTurn",
    "PortRange",
    "Register",
    "Route",
    "SipServer",
    "StunServer",
    "Trunk",
    "Turn",
    "TurnServer",
    "User",
    "schema",
]


class Reject(Model):
    """An answer of our own instead of a trunk."""

    status: Annotated[int, Field(strict=True, ge=400, le=699, description="SIP status code, 400 to 699.")] = (
        403
    )
    reason: Annotated[
        Text, Field(max_length=128, pattern=r"^[^\r\n]*$", description="Reason phrase sent with it.")
    ] = "Forbidden"


class Route(Model):
    """Where calls go. Routes are tried from the top; the first that fits decides."""

    from_: Annotated[
        Name,
        Field(
            validation_alias="from",
            serialization_alias="from",
            description="Where the call comes from: the name of a network or a trunk, `phones`, or `any`.",
        ),
    ] = "any"
    match: Annotated[
        Pattern | None,
        Field(
            description="Regular expression that must be found in the called user (of the Request-URI); "
            "anchor it with ^ and $. None: every call."
        ),
    ] = None
    from_match: Annotated[
        Pattern | None, Field(description="The same for the calling user (of From). None: every caller.")
    ] = None
    to: Annotated[
        Names, Field(description="Trunks, tried in order; `phones`: those of the called user.")
    ] = ()
    when: Annotated[
        Literal["registered", "always"],
        Field(
            description="On a route to phones: registered fits only if the called user has a registered phone. Where "
            "no other fits, the caller hears that he is away (480), or that there is none (404)."
        ),
    ] = "always"
    reject: Annotated[Reject | None, Field(description="Refuse the call instead of `to`.")] = None
    strip: Annotated[
        int, Field(strict=True, ge=0, le=64, description="Characters taken off the front of the called user.")
    ] = 0
    prepend: Annotated[
        Text, Field(max_length=64, description="Text put before the called user, after `strip`.")
    ] = ""
    line: SkipJsonSchema[Annotated[int, Field(description="Line in the file.")]] = 0

    @model_validator(mode="after")
    def _one_outcome(self) -> "Route":
        if bool(self.to) == (self.reject is not None):
            raise bad(
                "incomplete",
                "a route needs either to: with trunks, or reject: with a status; not both, not none",
            )
        return self


class Limits(Model):
    """How much of everything there may be; beyond it is an answer with a reason or a counted drop."""

    max_calls: Annotated[Positive, Field(description="Calls at a time.")] = 1000
    calls_per_s: Annotated[Rate, Field(description="New calls a second, all together; 0: no limit.")] = 0
    calls_per_s_per_source: Annotated[
        Rate, Field(description="New calls a second from one address; 0: no limit.")
    ] = 0
    max_message_bytes: Annotated[
        Positive, Field(ge=1300, le=1_048_576, description="Largest SIP message, bytes.")
    ] = 65535
    max_headers: Annotated[
        Positive, Field(ge=16, le=10_000, description="Header lines of a SIP message.")
    ] = 128
    max_transactions: Annotated[Positive, Field(description="SIP transactions at a time, both ways.")] = (
        50_000
    )
    tcp_connections: Annotated[Positive, Field(description="TCP connections at a time.")] = 1000
    tcp_connections_per_source: Annotated[
        Positive, Field(description="TCP connections from one address.")
    ] = 20
    tcp_idle_s: Annotated[
        PositiveSeconds, Field(description="An unused TCP connection is closed after, s.")
    ] = 600
    queue_age_ms: Annotated[
        Positive,
        Field(
            description="A new call whose request waited longer than this is refused with 503, ms; less than t1_ms, "
            "after which peers send everything twice."
        ),
    ] = 200
    max_forwards: Annotated[
        Positive, Field(le=255, description="Max-Forwards of requests that have none.")
    ] = 70
    trace_messages: Annotated[
        Count, Field(le=10_000, description="SIP messages kept per call for `sbc explain`.")
    ] = 50
    recent_calls: Annotated[Count, Field(le=100_000, description="Ended calls kept for `sbc explain`.")] = 200


class Timers(Model):
    """Every wait. 0 switches a timer off where the description says so."""

    t1_ms: Annotated[
        Positive, Field(le=10_000, description="RFC 3261 T1, estimate of the round trip, ms.")
    ] = 500
    t2_ms: Annotated[
        Positive, Field(le=60_000, description="RFC 3261 T2, longest time between repeats, ms.")
    ] = 4000
    t4_ms: Annotated[
        Positive, Field(le=60_000, description="RFC 3261 T4, longest life of a message in the network, ms.")
    ] = 5000
    trying_timeout_s: Annotated[
        PositiveSeconds,
        Field(description="A server that sent no provisional answer for so long is given up, s."),
    ] = 4
    no_answer_s: Annotated[
        PositiveSeconds, Field(description="An unanswered call is cancelled after, s (RFC 3261 timer C).")
    ] = 180
    max_call_s: Annotated[Seconds, Field(description="Longest call, s; 0: no limit.")] = 14_400
    session_expires_s: Annotated[
        WholeSeconds,
        Field(description="Session interval that we ask for, s (RFC 4028); 0: no session timers."),
    ] = 1800
    min_se_s: Annotated[
        WholeSeconds, Field(description="Shortest session interval that we accept, s (RFC 4028 Min-SE).")
    ] = 90
    rtp_silence_s: Annotated[
        Seconds, Field(description="A call without media from either side ends after, s; 0: never.")
    ] = 60
    rtp_start_s: Annotated[
        Seconds, Field(description="The same while there never was any media, s; 0: never.")
    ] = 60
    rtp_hold_s: Annotated[Seconds, Field(description="The same for a call on hold, s; 0: never.")] = 0
    learn_window_s: Annotated[
        PositiveSeconds, Field(description="How long a media source may be learned behind NAT, s.")
    ] = 10
    port_quarantine_s: Annotated[
        Seconds, Field(description="Rest of a media port before its next use, s; 0: none.")
    ] = 30
    drain_s: Annotated[Seconds, Field(description="Calls in progress are given so long when we stop, s.")] = (
        30
    )
    dialog_check_s: Annotated[
        Seconds, Field(description="OPTIONS inside an established call every so often, s; 0: never.")
    ] = 0


class Media(Model):
    """The media relay."""

    engine: Annotated[
        Literal["auto", "reference", "native"],
        Field(description="Who relays in user space; auto: the best that there is."),
    ] = "auto"
    fastpath: Annotated[
        Literal["auto", "on", "off"], Field(description="Relaying in the kernel; auto: where possible.")
    ] = "auto"
    workers: Annotated[Count, Field(le=256, description="Relay processes; 0: one per processor core.")] = 0
    pin_workers: Annotated[
        bool,
        Field(
            description="Each relay process stays on one processor core. Where nothing else runs on these cores "
            "its caches stay its own; elsewhere it waits while another core is idle."
        ),
    ] = False
    codecs: Annotated[
        tuple[Annotated[Text, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], ...] | None,
        BeforeValidator(as_list),
        Field(
            description="Encoding names that may pass, like PCMA or opus; others are taken out. None: all."
        ),
    ] = None
    dscp: Annotated[
        int,
        Field(
            strict=True, ge=0, le=63, description="DiffServ code point of media packets (46: EF, RFC 4594)."
        ),
    ] = 46


class Topology(Model):
    """The runtime guard of topology hiding."""

    verify: Annotated[
        Literal["off", "count", "block"],
        Field(
            description="Scan every outgoing message for anything of the other side; count: log and count what "
            "is found, block: do not send the message."
        ),
    ] = "count"


class Log(Model):
    """What is written down, and where."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="Least important lines that are written; debug shows messages."),
    ] = "info"
    file: Annotated[Text | None, Field(description="Log file. None: standard error (the journal).")] = None
    cdr: Annotated[
        Text | None, Field(description="File with one JSON line per ended call. None: no file.")
    ] = None
    trace: Annotated[
        Literal["off", "lines", "full"],
        Field(description="What is kept of the messages of a call: nothing, the first lines, everything."),
    ] = "lines"


class Control(Model):
    """How `sbc calls`, `sbc explain` and `sbc reload` reach the running server."""

    socket: Annotated[Text, Field(description="Path of the Unix socket.")] = "/run/sbc/control.sock"


class Config(Model):
    """The whole configuration."""

    networks: Annotated[
        dict[Name, Network],
        BeforeValidator(named),
        Field(
            min_length=1, max_length=MAX_NAMES, description="Networks that we stand in, by name; usually two."
        ),
    ]
    trunks: Annotated[
        dict[Name, Trunk],
        BeforeValidator(named),
        Field(max_length=MAX_NAMES, description="Peers that calls come from and go to, by name."),
    ] = Field(default_factory=dict)
    phones: Annotated[
        Phones | None, Field(description="Remote phones that register through us. None: there are none.")
    ] = None
    routes: Annotated[
        tuple[Route, ...],
        Field(max_length=10_000, description="Where calls go; the first route that fits decides."),
    ] = ()
    emergency: Annotated[Emergency, Field(description="Calls that pass limits and overload refusal.")] = (
        Emergency()
    )
    limits: Annotated[Limits, Field(description="How much of everything there may be.")] = Limits()
    timers: Annotated[Timers, Field(description="Every wait.")] = Timers()
    media: Annotated[Media, Field(description="The media relay.")] = Media()
    topology: Annotated[Topology, Field(description="The guard of topology hiding.")] = Topology()
    log: Annotated[Log, Field(description="Log, call records, traces.")] = Log()
    control: Annotated[Control, Field(description="The control socket.")] = Control()
    path: SkipJsonSchema[Annotated[str, Field(description="File that it was read from.")]] = ""

    _marks: dict[str, tuple[int, int]] = PrivateAttr(default_factory=dict)

    @property
    def phones_domain(self) -> str:
        """Domain of the phones' addresses of record, and the digest realm of `registrar: local`; "" without phones."""
        if self.phones is None:
            return ""
        network = self.networks[self.phones.network]
        return self.phones.domain or network.domain or network.advertised

    def position(self, key: str) -> tuple[int, int]:
        """(line, column) in the file of a key such as `trunks.pbx.from[0]`, or of the nearest above it."""
        while key and key not in self._marks:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self._marks.get(key, (1, 1))

    def has_key(self, key: str) -> bool:
        """Whether that very key stands in the file."""
        return key in self._marks

    def with_marks(self, marks: dict[str, tuple[int, int]]) -> "Config":
        """The same configuration that knows where its keys stand in the file."""
        marked = self.model_copy()
        marked._marks = marks
        return marked

    def __repr__(self) -> str:
        # Not everything: values may have come from secret files.
        counts = f"{len(self.networks)} networks, {len(self.trunks)} trunks, {len(self.routes)} routes"
        return f"Config({self.path!r}, {counts})"

    __str__ = __repr__


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
