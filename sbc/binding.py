"""One contact of a phone that has registered, what makes it the same, and how it is stored (RFC 3261 s.10, RFC 5626).

Times in memory are monotonic, so that a step of the clock ends no registration; `row_of` and `binding_of` turn them
into seconds since the epoch and back, because what is stored has to survive the process.
"""

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.flow import Address, Flow, host_port
from signaling.uri import SipUri, parse_uri, unescape

Value = str | int | float | bytes
Row = tuple[Value, ...]
"""What is stored of a binding: a value for each of `COLUMNS`."""
COLUMNS: tuple[tuple[str, str], ...] = (
    ("user", "TEXT"), ("identity", "TEXT"), ("contact", "TEXT"), ("token", "TEXT"), ("network", "TEXT"),
    ("transport", "TEXT"), ("local_host", "TEXT"), ("local_port", "INTEGER"), ("remote_host", "TEXT"),
    ("remote_port", "INTEGER"), ("expires_at", "REAL"), ("seen_at", "REAL"), ("call_id", "TEXT"),
    ("cseq", "INTEGER"), ("q", "INTEGER"), ("instance", "TEXT"), ("reg_id", "INTEGER"), ("outbound", "INTEGER"),
    ("user_agent", "TEXT"), ("nat", "TEXT"), ("gruu", "TEXT"), ("registrar", "TEXT"),
    ("registrar_expires_at", "REAL"), ("auth_user", "TEXT"), ("service_route", "TEXT"), ("pub_gruu", "TEXT"),
    ("temp_gruu", "TEXT"),
)  # fmt: skip
"""Name and SQL type of each; the first two are the key. `registrar` "": kept here."""
FlowKey = tuple[str, str, Address]


@frozen
class Upstream:
    """What the registrar behind us knows of a binding: its server, until when, and what it told us.

    `auth_user` is who the credentials named that it accepted; `service_route` is RFC 3608. `asked_at` is when it said
    so, 0 for before the last start.
    """

    server: str
    expires_at: float
    auth_user: str = ""
    service_route: tuple[str, ...] = ()
    pub_gruu: str = ""
    temp_gruu: str = ""
    asked_at: float = 0.0


class Binding:
    """One contact of one user. Changed only through `Locations`, which has it in its tables.

    `user` is the user of the address of record without escapes, `contact` the URI as the phone wrote it, `identity`
    what makes it the same binding when it comes again (`identity_of`), `token` the user part of the contact that
    stands for it towards the registrar, `q` in thousandths, `nat` how Via and Contact differ from the source ("":
    they do not), `gruu` the handle of its temporary GRUUs. `expires_at` and `seen_at` are monotonic.
    """

    __slots__ = (
        "answered",
        "armed",
        "call_id",
        "contact",
        "cseq",
        "dead",
        "expires_at",
        "flow",
        "granted_s",
        "gruu",
        "identity",
        "instance",
        "nat",
        "outbound",
        "q",
        "reg_id",
        "registered_at",
        "seen_at",
        "shape",
        "stored_until",
        "token",
        "upstream",
        "user",
        "user_agent",
    )

    def __init__(
        self,
        user: str,
        identity: str,
        contact: str,
        token: str,
        flow: Flow,
        expires_at: float,
        call_id: str,
        cseq: int,
        q: int = 1000,
        instance: str = "",
        reg_id: int = 0,
        outbound: bool = False,
        user_agent: str = "",
        nat: str = "",
        gruu: str = "",
        seen_at: float = 0.0,
        upstream: Upstream | None = None,
        dead: str = "",
        registered_at: float = 0.0,
    ) -> None:
        self.user = user
        self.identity = identity
        self.contact = contact
        self.token = token
        self.flow = flow
        self.expires_at = expires_at
        self.call_id = call_id
        self.cseq = cseq
        self.q = q
        self.instance = instance
        self.reg_id = reg_id
        self.outbound = outbound
        self.user_agent = user_agent
        self.nat = nat
        self.gruu = gruu
        self.seen_at = seen_at
        self.upstream = upstream
        # Why it cannot be called just now: "" for one that can.
        self.dead = dead
        # When its last REGISTER came; not stored, so that it is long ago after a restart.
        self.registered_at = registered_at
        self.armed: float | None = None
        # Until when a restart would have it, by what is on the disk.
        self.stored_until = 0.0
        # Of the short way (`sbc.registrar_short`): what its last REGISTER looked like (0: not known), what was granted,
        # and the hash of the one that was answered.
        self.shape = 0
        self.granted_s = 0
        self.answered = 0

    @property
    def key(self) -> tuple[str, str]:
        """User and identity."""
        return self.user, self.identity

    @property
    def flow_key(self) -> FlowKey:
        """What a message of this phone is recognised by."""
        return self.flow.network, self.flow.transport, self.flow.remote


# -- what makes a binding the same -------------------------------------------------------------------------


def identity_of(contact: str, instance: str = "", reg_id: int = 0) -> str:
    """What makes a contact the same binding: instance and reg-id (RFC 5626 s.6), else the URI (RFC 3261 s.19.1.4)."""
    if instance and reg_id:
        return f"reg {reg_id} {instance.lower()}"
    try:
        uri = parse_uri(contact)
    except ParseError:
        return f"uri {contact}"
    if not isinstance(uri, SipUri):
        return f"uri {contact}"
    params = sorted(f";{name.lower()}={(value or '').lower()}" for name, value in uri.params)
    port = "" if uri.port is None else f":{uri.port}"
    return f"uri {uri.scheme}:{unescape(uri.user)}@{uri.host.lower()}{port}{''.join(params)}"


def phone_of(identity: str) -> str:
    """The identity without its reg-id: the flows of one phone are one contact towards a registrar behind us."""
    return identity.partition(" ")[2].partition(" ")[2] if identity.startswith("reg ") else identity


# -- rows --------------------------------------------------------------------------------------------------


def row_of(binding: Binding, now: float, wall: float) -> Row:
    """What is stored of `binding`; its times in seconds since the epoch."""
    flow, upstream = binding.flow, binding.upstream
    later: Row = ("", 0.0, "", "", "", "")
    if upstream is not None:
        later = (
            upstream.server, wall + upstream.expires_at - now, upstream.auth_user,
            "\n".join(upstream.service_route), upstream.pub_gruu, upstream.temp_gruu,
        )  # fmt: skip
    row: Row = (
        binding.user, binding.identity, binding.contact, binding.token, flow.network, flow.transport,
        flow.local[0], flow.local[1], flow.remote[0], flow.remote[1], wall + binding.expires_at - now,
        wall + binding.seen_at - now, binding.call_id, binding.cseq, binding.q, binding.instance, binding.reg_id,
        int(binding.outbound), binding.user_agent, binding.nat, binding.gruu, *later,
    )  # fmt: skip
    return tuple([storable(value) if isinstance(value, str) else value for value in row])


def storable(text: str) -> str | bytes:
    """`text` as SQLite takes it: a phone may send bytes that are no UTF-8, which are stored as they came."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def text_of(value: Value) -> str:
    """What `storable` was given."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def binding_of(row: Row, now: float, wall: float) -> Binding | None:
    """The binding of a stored row, None for one that cannot be read."""
    if len(row) != len(COLUMNS):
        return None
    value = dict(zip([name for name, _ in COLUMNS], row, strict=True))
    texts = {name: text_of(value[name]) for name, kind in COLUMNS if kind == "TEXT"}
    try:
        times = {name: now + float(value[name]) - wall for name, kind in COLUMNS if kind == "REAL"}
        numbers = {name: int(value[name]) for name, kind in COLUMNS if kind == "INTEGER"}
    except (ValueError, OverflowError):
        return None
    upstream = None
    if texts["registrar"]:
        upstream = Upstream(
            texts["registrar"],
            times["registrar_expires_at"],
            texts["auth_user"],
            tuple(texts["service_route"].split("\n")) if texts["service_route"] else (),
            texts["pub_gruu"],
            texts["temp_gruu"],
        )
    local = (texts["local_host"], numbers["local_port"])
    flow = Flow(texts["network"], texts["transport"], local, (texts["remote_host"], numbers["remote_port"]))
    return Binding(
        texts["user"],
        texts["identity"],
        texts["contact"],
        texts["token"],
        flow,
        times["expires_at"],
        texts["call_id"],
        numbers["cseq"],
        numbers["q"],
        texts["instance"],
        numbers["reg_id"],
        bool(numbers["outbound"]),
        texts["user_agent"],
        texts["nat"],
        texts["gruu"],
        times["seen_at"],
        upstream,
        # Its connection ended with the process that had it: it is back when the phone registers again.
        "its connection ended with the restart" if flow.reliable else "",
    )


def shown(binding: Binding, now: float) -> dict[str, object]:
    """One line of `sbc registrations`."""
    upstream, flow = binding.upstream, binding.flow
    return {
        "user": binding.user,
        "contact": binding.contact,
        "network": flow.network,
        "flow": f"{flow.transport} {host_port(flow.remote)}",
        "expires_s": max(0, round(binding.expires_at - now)),
        "q": binding.q / 1000,
        "nat": binding.nat or None,
        "registrar": "local" if upstream is None else upstream.server,
        "registrar_expires_s": None if upstream is None else max(0, round(upstream.expires_at - now)),
        "seen_s": max(0, round(now - binding.seen_at)),
        "state": binding.dead or "up",
        "user_agent": binding.user_agent,
        "instance": binding.instance or None,
        "reg_id": binding.reg_id or None,
    }
