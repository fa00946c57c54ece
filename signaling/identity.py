"""Who somebody is, without the network that he is in (RFC 3261 s.8.1.1.3, RFC 3323, RFC 3966)."""

import re
from collections.abc import Collection
from urllib.parse import quote as escape

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.guard import clean_text
from signaling.headers import NameAddr, parse_params, write_display
from signaling.site import Site
from signaling.uri import Params, SipUri, TelUri, Uri, parse_uri, service_of, unescape, write_params

ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>'
ANONYMOUS_HOST = "anonymous.invalid"

# RFC 3966, RFC 4694 (number portability), RFC 7852-style tokens of carriers (cpc, oli) and RFC 8225's verstat.
_NUMBER = re.compile(r"[0-9A-Fa-f+*#().\-]{1,32}")
_WORD = re.compile(r"[A-Za-z0-9\-]{1,40}")
_USER_PARAMS: dict[str, re.Pattern[str] | None] = {
    "phone-context": re.compile(r"\+[0-9().\-]{1,20}"),  # the other form is a domain name
    "isub": _NUMBER, "ext": _NUMBER, "rn": _NUMBER, "cic": _NUMBER, "npdi": None, "cpc": _WORD,
    "oli": _NUMBER, "verstat": re.compile(r"(?:TN-Validation|No-TN-Validation)[A-Za-z\-]{0,20}"),
}  # fmt: skip


@frozen
class Identity:
    """Who somebody is, without the network that he is in.

    `user` is as it stands in a URI, escapes included. `tel` says that it was a tel URI, which has no host anyway.
    `params` are those of the number (RFC 3966, RFC 4694) and `user`.
    """

    display: str = ""
    user: str = ""
    tel: bool = False
    params: Params = ()

    @property
    def anonymous(self) -> bool:
        """Whether the name is withheld (RFC 3323 s.4.1.1.3)."""
        return self.user == "anonymous"

    def uri(self, site: Site, headers: str = "") -> str:
        """The identity as a URI of `site`."""
        if self.anonymous:
            return f"sip:anonymous@{ANONYMOUS_HOST}"
        if self.tel:
            return f"tel:{self.user}{write_params(self.params)}"
        host = f"[{site.domain}]" if ":" in site.domain else site.domain
        user = f"{self.user}@" if self.user else ""
        return f"sip:{user}{host}{write_params(self.params)}{headers}"

    def render(self, site: Site, headers: str = "") -> str:
        """The identity as a name-addr of `site`, without tag."""
        if self.anonymous:
            return ANONYMOUS
        display = f"{write_display(self.display)} " if self.display else ""
        return f"{display}<{self.uri(site, headers)}>"


@frozen
class Party:
    """An identity in a header field, with what may stand beside it: `headers` in its URI, `params` behind it."""

    identity: Identity
    headers: str = ""
    params: Params = ()

    def render(self, site: Site) -> str:
        """The value as `site` gets it."""
        return f"{self.identity.render(site, self.headers)}{write_params(self.params)}"


def carry_identity(name_addr: NameAddr, hosts: Collection[str] = ()) -> Identity:
    """The identity of a From, To, P-Asserted-Identity, ... value.

    `hosts` are further names of that side (`hosts_of`) to keep out of display name and user part. ParseError for a
    URI that is none. A URI without a user part that we understand is an identity without user.
    """
    uri = parse_uri(name_addr.uri_text)
    if isinstance(uri, TelUri):
        return Identity(clean_text(name_addr.display, hosts), uri.number, True, _user_params(uri.params))
    if not isinstance(uri, SipUri):
        return Identity(clean_text(name_addr.display, hosts))
    host = uri.host.lower()
    if uri.user.lower() == "anonymous" or host == ANONYMOUS_HOST:
        return Identity("Anonymous", "anonymous")
    if host not in hosts:
        hosts = (host, *hosts)
    params = (("user", "phone"),) if uri.param("user") == "phone" else ()
    return Identity(clean_text(name_addr.display, hosts), clean_user(uri.user, hosts), False, params)


def clean_user(user: str, hosts: Collection[str] = ()) -> str:
    """A user part without addresses and domain names of its side, and without parameters that could hold one.

    What is dialled must arrive: a host name without a dot may be somebody's name or number as well.
    """
    number, semicolon, tail = user.partition(";")
    if semicolon:
        # RFC 3261 s.19.1.6: a telephone number in a SIP URI brings its parameters along.
        number += write_params(_user_params(parse_params(tail)))
    plain = unescape(number)
    safe = clean_text(plain, hosts, False)
    return number if safe == plain else escape(safe, safe="&=+$,;?/-_.!~*'()", errors="ignore")


def _user_params(params: Params) -> Params:
    kept: list[tuple[str, str | None]] = []
    for name, value in params:
        key = name.lower()
        if key not in _USER_PARAMS:
            continue
        pattern = _USER_PARAMS[key]
        if pattern is None or (value is not None and pattern.fullmatch(value)):
            kept.append((key, None if pattern is None else value))
    return tuple(kept)


def user_part(uri: Uri, hosts: Collection[str] = ()) -> str:
    """Whom a URI asks for, without its host: a service by its name (RFC 5031), a user or a number; "" for nobody."""
    user = uri.user if isinstance(uri, SipUri) else uri.number if isinstance(uri, TelUri) else ""
    return service_of(uri) or clean_user(user, hosts)


def user_of(text: str) -> str:
    """The user part of a URI, empty where it has none or is none."""
    try:
        uri = parse_uri(text)
    except ParseError:
        return ""
    return user_part(uri, (uri.host.lower(),) if isinstance(uri, SipUri) else ())
