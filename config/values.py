"""Values that a key of the configuration can hold: text, addresses, ports, listeners, servers."""

import ipaddress
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from config.pattern import refusal

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NAMES = 1000
"""Most entries of one list or mapping."""
AUTO = "auto"
"""`advertise: auto`: our address is what STUN servers see."""
MAX_SECRET = 1024
STUN_PORT = 3478
"""RFC 8489 s.6.2.2, RFC 8656 s.3.1: STUN and TURN without TLS."""

# RFC 3261 s.25.1 user, without what needs escapes, and without ";" which begins parameters.
_USER = re.compile(r"[A-Za-z0-9\-_.!~*'&=+$,?/]{1,128}", re.ASCII)
_PRIORITY = re.compile(r"[A-Za-z0-9\-!%*_+`'~]{1,64}\.[A-Za-z0-9\-!%*_+`'~]{1,64}", re.ASCII)


class Int(int):
    """An integer that remembers how it was written, for keys that hold text: `prepend: 0`."""

    text: str


class Float(float):
    """A number with a fraction that remembers how it was written."""

    text: str


def bad(kind: str, message: str) -> PydanticCustomError:
    """A mistake in one value, as a validator raises it: `message` is shown as it is."""
    # The braces of pydantic's templates would trip over a `{` in what the user wrote.
    return PydanticCustomError(kind, "{message}", {"message": message})


def _as_text(value: object) -> object:
    return value.text if isinstance(value, Int | Float) else value


def as_list(value: object) -> object:
    """A list of one where a single value stands for it."""
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _address(text: str) -> str:
    if text.startswith("["):
        raise bad("address", "an IPv6 address stands here without brackets, like 2001:db8::1")
    if "%" in text:
        raise bad("address", "an address with a zone cannot be used; write a global or unique local address")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise bad(
            "address", f"{quoted(text)} is no IP address; write a literal one like 192.0.2.10 or 2001:db8::10"
        ) from None
    if address.is_multicast or text == "255.255.255.255":
        raise bad("address", f"{text} is a multicast or broadcast address; write the address of one host")
    return str(address)


def named(value: object) -> object:
    """Gives the entries of a mapping their key as `name`."""
    if not isinstance(value, dict):
        return value
    return {key: {**entry, "name": key} if isinstance(entry, dict) else entry for key, entry in value.items()}


def _advertised(text: str) -> str:
    return text if text == AUTO else _address(text)


def _user_part(text: str) -> str:
    if not _USER.fullmatch(text):
        raise bad(
            "user",
            f"{quoted(text)} is no user part; write letters, digits and -_.!~*'&=+$,?/, like alice or +15551234",
        )
    return text


def _priority(text: str) -> str:
    # RFC 4412 s.3.1: namespace "." r-priority, both token-nodot.
    if not _PRIORITY.fullmatch(text):
        raise bad(
            "priority",
            f"{quoted(text)} is no value of Resource-Priority; write NAMESPACE.VALUE, like esnet.0",
        )
    return text.lower()


def _secret(value: object) -> object:
    value = _as_text(value)
    if isinstance(value, SecretStr):
        return value
    # What stands there may be the secret all the same, so no message shows it.
    if not isinstance(value, str):
        raise bad("secret", "this is not text; write it in quotation marks")
    if not value:
        raise bad("secret", "it is empty; write the secret, or take the key out")
    if len(value) > MAX_SECRET:
        raise bad("secret", f"it is longer than {MAX_SECRET} characters; write a shorter one")
    if not value.isprintable():
        raise bad("secret", "a secret is one line of printable characters; look at where it comes from")
    return value


def _ip_network(value: object) -> object:
    if isinstance(value, IpNetwork):
        return value
    if not isinstance(value, str):
        raise bad("ip_network", "an address or prefix is expected here; write one like 198.51.100.0/24")
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise bad(
            "ip_network",
            f"{quoted(value)} is no address or prefix; write one like 198.51.100.0/24 or 2001:db8::7",
        ) from None
    raise bad("ip_network", f"{value} has bits set to the right of the prefix; write {wider}")


def _is_host(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(
        re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", x) for x in labels
    )


def _domain(text: str) -> str:
    if not _is_host(text):
        raise bad(
            "domain",
            f"{quoted(text)} is no host name; write one like sip.example.com, without scheme or port",
        )
    return text.lower()


def _pattern(text: str) -> str:
    problem = refusal(text)
    if problem is not None:
        raise bad("pattern", problem)
    return text


def quoted(text: str) -> str:
    """`text` as an error message shows it: bounded and printable, in quotation marks."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:60])
    return f'"{shown}{"..." if len(text) > 60 else ""}"'


def port_number(text: str) -> int | None:
    """A decimal UDP or TCP port, or None when it is none."""
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII):
        return None
    return int(text) if 1 <= int(text) <= 65535 else None


Text = Annotated[str, BeforeValidator(_as_text), Field(max_length=1024)]
Name = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
HostAddress = Annotated[Text, AfterValidator(_address)]
Advertised = Annotated[Text, AfterValidator(_advertised)]
UserPart = Annotated[Text, AfterValidator(_user_part)]
Priority = Annotated[Text, AfterValidator(_priority)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
Domain = Annotated[Text, AfterValidator(_domain)]
Pattern = Annotated[Text, AfterValidator(_pattern)]
Prefix = Annotated[
    IpNetwork,
    BeforeValidator(_ip_network),
    WithJsonSchema({"type": "string", "description": "IP address or prefix"}),
]
Count = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]
Positive = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=604_800)]
PositiveSeconds = Annotated[float, Field(strict=True, gt=0, le=604_800)]
WholeSeconds = Annotated[int, Field(strict=True, ge=0, le=604_800)]
Rate = Annotated[float, Field(strict=True, ge=0, le=1_000_000)]
StatusCode = Annotated[int, Field(strict=True, ge=300, le=699)]


class Model(BaseModel):
    """Frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def is_key(info: FieldInfo) -> bool:
    """Whether a field comes from the file, and is not added by the program."""
    return not any(type(mark) is SkipJsonSchema for mark in info.metadata)


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys that a model has in the file, under the words that stand there."""
    return {
        info.validation_alias if isinstance(info.validation_alias, str) else name: info
        for name, info in model.model_fields.items()
        if is_key(info)
    }


class Listen(Model):
    """One SIP port of a network, written `transport:port`: `udp:5060`."""

    transport: Annotated[str, Field(pattern="^(udp|tcp)$", description="udp or tcp.")]
    port: Annotated[int, Field(ge=1, le=65535, description="UDP or TCP port.")]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, Int) or value is None:
            value = getattr(value, "text", "")
        if not isinstance(value, str):
            return value
        transport, colon, port_text = value.partition(":")
        transport = transport.strip().lower()
        if transport in {"tls", "ws", "wss", "sctp"}:
            raise bad("listen", f"{transport} is not in this version yet; write udp:PORT or tcp:PORT")
        if transport not in {"udp", "tcp"} or not colon:
            raise bad("listen", f"{quoted(value)} is no listener; write udp:PORT or tcp:PORT, like udp:5060")
        port = port_number(port_text.strip())
        if port is None:
            raise bad("listen", f"{quoted(port_text.strip())} is no port; write a number from 1 to 65535")
        return {"transport": transport, "port": port}

    def __str__(self) -> str:
        return f"{self.transport}:{self.port}"


class PortRange(Model):
    """UDP ports from `first` to `last`, both included, written `20000-39999`."""

    first: Annotated[int, Field(ge=1, le=65535, description="Lowest port.")]
    last: Annotated[int, Field(ge=1, le=65535, description="Highest port.")]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, Int | Float):
            value = value.text
        if not isinstance(value, str):
            return value
        first_text, dash, last_text = value.partition("-")
        first, last = port_number(first_text.strip()), port_number(last_text.strip())
        if not dash or first is None or last is None:
            raise bad(
                "port_range",
                f"{quoted(value)} is no port range; write FIRST-LAST from 1 to 65535, like 20000-39999",
            )
        return {"first": first, "last": last}

    @model_validator(mode="after")
    def _in_order(self) -> "PortRange":
        if self.first >= self.last:
            raise bad("port_range", f"{self} holds no two ports; write the lower one first, like 20000-39999")
        return self

    @property
    def pairs(self) -> int:
        """Pairs of an even RTP port and the next odd RTCP port that fit in (RFC 3550 s.11)."""
        return max(0, (self.last - 1) // 2 - (self.first + 1) // 2 + 1)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


class SipServer(Model):
    """One server of a trunk, written as a SIP URI: `sip:10.0.0.20:5080;transport=tcp`."""

    uri: Annotated[str, Field(description="As written in the configuration.")]
    host: Annotated[str, Field(description="Literal address (IPv6 without brackets) or name.")]
    port: Annotated[int | None, Field(ge=1, le=65535, description="Port, none for the default 5060.")] = None
    transport: Annotated[str, Field(pattern="^(udp|tcp)$", description="udp or tcp.")] = "udp"

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return server_parts(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        return self.uri

    @property
    def literal(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address, when the host is one and not a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def server_parts(text: str) -> dict[str, Any]:
    """The fields of a `SipServer` from its URI; raises PydanticCustomError."""
    example = "sip:10.0.0.20, sip:pbx.example.com:5080 or sip:10.0.0.20;transport=tcp"
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() == "sips":
        raise bad("server", f"{quoted(text)} asks for TLS, which is not in this version yet; write sip:")
    if scheme.lower() != "sip" or not colon:
        raise bad("server", f"{quoted(text)} is no SIP URI; write one like {example}")
    if "@" in rest or "?" in rest:
        raise bad(
            "server",
            f"{quoted(text)}: a server has neither a user part nor headers; write one like {example}",
        )
    host_port, *params = rest.split(";")
    host, port = _host_port(host_port, example, shown=text)
    transport = "udp"
    for param in params:
        name, _, value = param.partition("=")
        if name.lower() == "transport" and value.lower() in {"udp", "tcp"}:
            transport = value.lower()
        elif name.lower() == "transport":
            raise bad(
                "server", f"transport {quoted(value)} is not in this version; write transport=udp or tcp"
            )
        elif name.lower() != "lr":
            raise bad(
                "server", f"{quoted(param)} means nothing for a server; only ;transport= and ;lr can be given"
            )
    return {"uri": text, "host": host, "port": port, "transport": transport}


class StunServer(Model):
    """A STUN server, written `host:port`; without a port it is 3478."""

    host: Annotated[str, Field(description="Literal address (IPv6 without brackets) or name.")]
    port: Annotated[int, Field(ge=1, le=65535, description="UDP port.")] = STUN_PORT

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, Int | Float):
            value = value.text
        if not isinstance(value, str):
            return value
        scheme, colon, rest = value.partition(":")
        if colon and scheme.lower() == "stuns":
            raise bad("server", "STUN over TLS is not in this version; write host:port")
        text = rest if colon and scheme.lower() == "stun" else value
        host, port = _host_port(text, "stun.example.com:3478 or [2001:db8::1]:3478")
        return {"host": host, "port": port or STUN_PORT}

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class TurnServer(Model):
    """A TURN server, written as a URI of RFC 7065: `turn:turn.example.com:3478?transport=udp`."""

    uri: Annotated[str, Field(description="As written in the configuration.")]
    host: Annotated[str, Field(description="Literal address (IPv6 without brackets) or name.")]
    port: Annotated[int, Field(ge=1, le=65535, description="Port.")] = STUN_PORT
    transport: Annotated[str, Field(pattern="^(udp|tcp)$", description="udp or tcp.")] = "udp"

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        example = "turn:turn.example.com:3478?transport=udp"
        scheme, colon, rest = value.partition(":")
        if colon and scheme.lower() == "turns":
            raise bad(
                "server", f"{quoted(value)} asks for TLS, which is not in this version yet; write turn:"
            )
        if not colon or scheme.lower() != "turn":
            raise bad("server", f"{quoted(value)} is no URI of a TURN server; write one like {example}")
        text, _, query = rest.partition("?")
        transport = "udp"
        if query:
            name, _, transport = query.lower().partition("=")
            if name != "transport" or transport not in {"udp", "tcp"}:
                raise bad(
                    "server", f"{quoted(query)} means nothing here; write ?transport=udp or ?transport=tcp"
                )
        host, port = _host_port(text, example)
        return {"uri": value, "host": host, "port": port or STUN_PORT, "transport": transport}

    def __str__(self) -> str:
        return self.uri


def _host_port(text: str, example: str, shown: str = "") -> tuple[str, int | None]:
    """Host and port out of `host`, `host:port` and `[address]:port`; messages say `shown`."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([^:]*))?", text)
    if found is None:
        what = f"{quoted(shown or text)} has no host in it (IPv6 needs brackets)"
        raise bad("server", f"{what}; write one like {example}")
    host, port_text = found[1] or found[2].lower(), found[3]
    port = None if port_text is None else port_number(port_text)
    if port_text is not None and port is None:
        raise bad("server", f"{quoted(port_text)} is no port; write a number from 1 to 65535")
    if found[1] is not None or re.fullmatch(r"[0-9.]+", host):
        host = _address(host)
    elif not _is_host(host):
        raise bad("server", f"{quoted(host)} is no host name or address; write one like {example}")
    return host, port


_LISTEN_SCHEMA = {"type": "string", "pattern": "^(udp|tcp):[0-9]{1,5}$"}
RANGE_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,5}-[0-9]{1,5}$"}
_TURN_SCHEMA = {"type": "string", "pattern": "^[tT][uU][rR][nN]:.+$"}
_SERVER_SCHEMA = {"type": "string", "pattern": "^[sS][iI][pP]:.+$"}


def _schema_list(items: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [items, {"type": "array", "items": items}]})


Listeners = Annotated[
    tuple[Listen, ...], BeforeValidator(as_list), Field(max_length=32), _schema_list(_LISTEN_SCHEMA)
]
Servers = Annotated[
    tuple[SipServer, ...],
    BeforeValidator(as_list),
    Field(min_length=1, max_length=32),
    _schema_list(_SERVER_SCHEMA),
]
Prefixes = Annotated[
    tuple[Prefix, ...],
    BeforeValidator(as_list),
    Field(max_length=MAX_NAMES),
    _schema_list({"type": "string"}),
]
Names = Annotated[
    tuple[Name, ...], BeforeValidator(as_list), Field(max_length=MAX_NAMES), _schema_list({"type": "string"})
]
UserParts = Annotated[
    tuple[UserPart, ...],
    BeforeValidator(as_list),
    Field(max_length=MAX_NAMES),
    _schema_list({"type": "string"}),
]
StunServers = Annotated[
    tuple[StunServer, ...],
    BeforeValidator(as_list),
    Field(max_length=8),
    _schema_list({"type": "string", "pattern": "^.+$"}),
]
TurnUri = Annotated[TurnServer, WithJsonSchema(_TURN_SCHEMA)]
TurnServers = Annotated[
    tuple[TurnServer, ...],
    BeforeValidator(as_list),
    Field(min_length=1, max_length=16),
    _schema_list(_TURN_SCHEMA),
]
Priorities = Annotated[
    tuple[Priority, ...],
    BeforeValidator(as_list),
    Field(max_length=100),
    _schema_list({"type": "string", "pattern": "^[^.]+\\.[^.]+$"}),
]
