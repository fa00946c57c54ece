"""Remote phones that register through us: the section `phones`, and `emergency`.

    network, registrar, domain            where they are, who keeps their registrations, their addresses of record
    users, users_file, digest             who may register (registrar: local), and how that is shown
    store, max_contacts, *_expires_s      bindings and how long they live
    keepalive, keepalive_s                what holds a NAT open
    calls, fork, ring_s                   who may call, and how several phones of one user ring
    registers_per_s, outbound, gruu       storms, RFC 5626, RFC 5627
    turn                                  what `sbc turn-credentials` issues credentials for

Every secret is a `SecretStr`: `get_secret_value()` has the text, `repr` and the logs have stars.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from config.values import (
    Domain,
    Model,
    Name,
    Positive,
    PositiveSeconds,
    Priorities,
    Rate,
    Secret,
    Text,
    TurnServers,
    UserPart,
    UserParts,
    WholeSeconds,
    as_list,
    bad,
    named,
)

LOCAL = "local"
"""The `registrar` that is no trunk: our own location service."""
PHONES = "phones"
"""What `from` and `to` of a route call the phones."""
MAX_USERS = 2_000
"""Users in the file, which takes a second to read then; more of them belong into `users_file`."""

Algorithm = Literal["MD5", "SHA-256", "SHA-512-256"]
HA1_DIGITS: dict[Algorithm, int] = {"MD5": 32, "SHA-256": 64, "SHA-512-256": 64}
"""Hexadecimal digits of H(user:realm:password) (RFC 7616 s.3.4.2, RFC 8760)."""


_ALGORITHM = {"type": "string", "enum": list(HA1_DIGITS)}


def _ha1(found: dict[Algorithm, SecretStr]) -> dict[Algorithm, SecretStr]:
    checked: dict[Algorithm, SecretStr] = {}
    for algorithm, secret in found.items():
        digits, text = HA1_DIGITS[algorithm], secret.get_secret_value()
        if not re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", text):
            raise bad(
                "ha1",
                f"{algorithm} has {digits} hexadecimal digits, what stands here is something else "
                f"({len(text)} characters); write {algorithm} of user:realm:password",
            )
        checked[algorithm] = SecretStr(text.lower())
    return checked


class User(Model):
    """A user of the local registrar: the user part of the address of record, and of the digest credentials."""

    name: SkipJsonSchema[Annotated[UserPart, Field(description="Set from the key.")]]
    password: Annotated[
        Secret | None,
        Field(description='Password in clear; better from outside the file, like "${file:alice.password}".'),
    ] = None
    ha1: Annotated[
        dict[Algorithm, Secret] | None,
        AfterValidator(lambda found: None if found is None else _ha1(found)),
        Field(
            min_length=1,
            description="Instead of `password`, by algorithm (MD5, SHA-256, SHA-512-256): the hash of "
            "user:realm:password in hexadecimal; the realm is `phones.domain`.",
        ),
    ] = None
    numbers: Annotated[
        UserParts,
        Field(description="Other users that calls to this one are addressed to, like +15551234."),
    ] = ()

    @model_validator(mode="after")
    def _one_secret(self) -> "User":
        if self.password is not None and self.ha1 is not None:
            raise bad("incomplete", "both password and ha1; write one of them")
        if self.password is None and self.ha1 is None:
            raise bad("incomplete", "neither password nor ha1; write one of them")
        return self


class PhonesTurn(Model):
    """A TURN server for phones and browsers: `sbc turn-credentials` issues short-lived credentials for it."""

    servers: Annotated[
        TurnServers,
        Field(description="Its URIs (RFC 7065), like turn:turn.example.com:3478?transport=udp."),
    ]
    secret: Annotated[
        Secret, Field(description="Shared with the server; in coturn: use-auth-secret, static-auth-secret.")
    ]
    ttl_s: Annotated[Positive, Field(le=604_800, description="How long credentials are good, s.")] = 86_400


class Phones(Model):
    """Remote phones that register through us."""

    network: Annotated[Name, Field(description="Network that the phones are in.")]
    registrar: Annotated[
        Name, Field(description="Trunk that registrations are relayed to, or `local`: they are kept here.")
    ]
    domain: Annotated[
        Domain | None,
        Field(
            description="Domain of their addresses of record; with registrar: local the digest realm too. "
            "None: `domain` of the network, else its advertised address."
        ),
    ] = None
    users: Annotated[
        dict[UserPart, User],
        BeforeValidator(named),
        Field(max_length=MAX_USERS, description="Who may register, by user part (registrar: local)."),
    ] = Field(default_factory=dict)
    users_file: Annotated[
        Text | None, Field(min_length=1, description="SQLite file with users, instead of or beside `users`.")
    ] = None
    digest: Annotated[
        tuple[Algorithm, ...],
        BeforeValidator(as_list),
        WithJsonSchema({"anyOf": [_ALGORITHM, {"type": "array", "items": _ALGORITHM, "minItems": 1}]}),
        Field(
            min_length=1,
            max_length=3,
            description="Digest algorithms that are offered, the preferred first (registrar: local). Many phones know "
            "MD5 alone, and some cannot register when another one is offered beside it.",
        ),
    ] = ("MD5",)
    store: Annotated[
        Text | None,
        Field(
            min_length=1,
            description="SQLite file with the bindings, which survive a restart. None: kept in memory only.",
        ),
    ] = "/var/lib/sbc/locations.db"
    max_contacts: Annotated[Positive, Field(le=100, description="Contacts of one address of record.")] = 10
    min_expires_s: Annotated[
        WholeSeconds, Field(description="Shorter registrations are refused with 423 (RFC 3261 s.10.3), s.")
    ] = 60
    max_expires_s: Annotated[
        Positive, Field(le=604_800, description="Longer registrations are shortened to this, s.")
    ] = 3600
    default_expires_s: Annotated[
        Positive, Field(le=604_800, description="Life of a registration that asks for none, s.")
    ] = 3600
    nat_expires_s: Annotated[
        Positive,
        Field(
            le=604_800,
            description="What a phone behind NAT over UDP is told when `keepalive` is expiry, so that its "
            "refreshes hold the NAT open, s.",
        ),
    ] = 60
    stream_expires_s: Annotated[
        Positive,
        Field(
            le=604_800,
            description="What a phone over TCP is told at most, s. When its connection breaks it is back by its next "
            "refresh; phones that watch their connection themselves (RFC 5626) get what they ask for.",
        ),
    ] = 300
    registrar_expires_s: Annotated[
        Positive,
        Field(
            le=604_800,
            description="What the registrar is asked for; a phone that refreshes more often is answered here, s.",
        ),
    ] = 3600
    keepalive: Annotated[
        Literal["auto", "crlf", "options", "expiry", "off"],
        Field(
            description="What holds the NAT of a phone open: blank lines, OPTIONS, short registrations; auto: OPTIONS "
            "over UDP to who is behind NAT, blank lines over TCP, nothing where the phone pings (RFC 5626)."
        ),
    ] = "auto"
    keepalive_s: Annotated[PositiveSeconds, Field(description="Time between keep-alives to a phone, s.")] = 25
    calls: Annotated[
        Literal["registered", "challenge", "any"],
        Field(
            description="Who may call from the network of the phones: registered flows only; challenge: others "
            "by password too (registrar: local); any: everybody that a route fits."
        ),
    ] = "registered"
    fork: Annotated[
        Literal["parallel", "serial"],
        Field(description="How contacts of one user with the same q ring: all at once, or one by one."),
    ] = "parallel"
    ring_s: Annotated[
        PositiveSeconds, Field(description="How long one contact rings before the next, one by one, s.")
    ] = 20
    registers_per_s: Annotated[
        Rate,
        Field(description="New REGISTERs a second; beyond: 503 with a spread Retry-After; 0: no limit."),
    ] = 100
    outbound: Annotated[bool, Field(strict=True, description="Flows as of RFC 5626.")] = True
    gruu: Annotated[bool, Field(strict=True, description="GRUUs are handed out (RFC 5627).")] = True
    turn: Annotated[
        PhonesTurn | None, Field(description="TURN server that phones get credentials for. None: none.")
    ] = None

    @property
    def local(self) -> bool:
        """Whether the registrations are kept here."""
        return self.registrar == LOCAL


class Emergency(Model):
    """Calls that pass limits and overload refusal."""

    numbers: Annotated[
        UserParts, Field(description="Called users that are emergency services, like 112.")
    ] = ()
    priority: Annotated[
        Priorities,
        Field(
            description="Values of Resource-Priority (RFC 4412) that pass too, like esnet.0, from trunks and "
            "registered phones; others mean nothing. Calls for help pass `limits.max_calls` up to twice as many.",
        ),
    ] = ()
    unregistered: Annotated[
        bool,
        Field(
            strict=True,
            description="Phones that are not registered, or show no password, may call `numbers` all the same "
            "(RFC 6881 s.8); such calls are a tenth of `limits.max_calls` at most.",
        ),
    ] = True
    unregistered_per_s: Annotated[
        float,
        Field(
            strict=True,
            gt=0,
            le=1_000_000,
            description="Such calls a second; one address gets a quarter, or one.",
        ),
    ] = 2
