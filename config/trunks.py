"""The peers that calls come from and go to: the section `trunks`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from config.values import (
    Domain,
    Model,
    Name,
    Positive,
    PositiveSeconds,
    Prefixes,
    Seconds,
    Secret,
    Servers,
    StatusCode,
    Text,
    UserPart,
    as_list,
)


class Check(Model):
    """OPTIONS pings that find out which servers of a trunk are up."""

    options_every_s: Annotated[
        Seconds, Field(description="Time between pings to each server, s; 0: no pings.")
    ] = 0
    timeout_s: Annotated[
        PositiveSeconds, Field(description="A ping without answer for so long has failed, s.")
    ] = 4
    down_after: Annotated[
        Positive, Field(le=100, description="Failed pings in a row that mark a server down.")
    ] = 2
    up_after: Annotated[
        Positive, Field(le=100, description="Answered pings in a row that mark it up again.")
    ] = 1


class Credentials(Model):
    """What answers the digest challenges of this trunk, and of nobody else (CVE-2021-41158)."""

    username: Annotated[Text, Field(min_length=1, max_length=256, description="User of the digest.")]
    password: Annotated[Secret, Field(description='Password, like "${file:carrier.password}".')]
    realm: Annotated[
        Text | None,
        Field(min_length=1, max_length=256, description="The only realm that is answered. None: any realm."),
    ] = None


class Register(Model):
    """A registration of ours at the trunk."""

    user: Annotated[UserPart, Field(description="User part of the address of record.")]
    expires_s: Annotated[
        Positive, Field(le=604_800, description="Life of the registration that we ask for, s.")
    ] = 3600
    contact_user: Annotated[
        UserPart | None, Field(description="User part of our Contact. None: the same as `user`.")
    ] = None
    retry_s: Annotated[
        PositiveSeconds,
        Field(description="Time before the next attempt after a failure, s; it grows up to 10 times that."),
    ] = 30


class Trunk(Model):
    """A peer that calls come from and go to: a carrier, a PBX, a proxy, with one or more servers."""

    name: SkipJsonSchema[Annotated[Name, Field(description="Set from the key.")]]
    network: Annotated[Name, Field(description="Network that the peer is in.")]
    servers: Annotated[
        Servers,
        Field(
            description="SIP URIs of its servers, tried in order. Requests that come from the literal "
            "addresses among them belong to this trunk too."
        ),
    ]
    from_: Annotated[
        Prefixes,
        Field(
            validation_alias="from",
            serialization_alias="from",
            description="Addresses and prefixes that its requests come from, besides those of `servers`.",
        ),
    ] = ()
    check: Annotated[Check | None, Field(description="OPTIONS pings; None: servers always count as up.")] = (
        None
    )
    failover_on: Annotated[
        tuple[StatusCode, ...],
        BeforeValidator(as_list),
        Field(
            max_length=100,
            description="Final SIP answers after which the next server is tried, besides no answer at all.",
        ),
    ] = (503,)
    redirects: Annotated[
        Literal["pass", "follow"],
        Field(description="What a 3xx answer does: go back to the caller, or be followed here."),
    ] = "pass"
    max_calls: Annotated[
        Positive | None, Field(description="Most calls at a time over this trunk. None: `limits.max_calls`.")
    ] = None
    nat: Annotated[
        Literal["none", "far-end"] | None,
        Field(description="As in the network. None: what the network says."),
    ] = None
    domain: Annotated[
        Domain | None,
        Field(description="Host name in identity headers sent here. None: what the network says."),
    ] = None
    credentials: Annotated[
        Credentials | None,
        Field(description="What answers 401 and 407 of this trunk. None: they fail the request."),
    ] = None
    register_: Annotated[
        Register | None,
        Field(
            validation_alias="register",
            serialization_alias="register",
            description="We register there and refresh it. None: we do not.",
        ),
    ] = None
    path: Annotated[
        bool,
        Field(
            strict=True, description="Path (RFC 3327) in REGISTER of phones that is relayed to this trunk."
        ),
    ] = False
