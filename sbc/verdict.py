"""What is to be said of a call, in sentences: how it stands or ended, then its media (media_verdict.py)."""

from dataclasses import dataclass, field

from sbc.media_verdict import Finding, Stream, stream_findings


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call stands. `state` "ringing", "up", "ended" or "failed"; `by` "a", "b" or "sbc"."""

    state: str
    by: str = ""
    cause: str = ""
    text: str = ""
    status: int = 0
    target: str = ""
    lasted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the verdict looks at."""

    ending: Ending
    streams: tuple[Stream, ...] = field(default=())


# How a call ended or why it failed, by its cause: templates over the words of `judge_ending`. What policy
# refuses carries its rule as the cause.
ENDINGS: dict[str, str] = {
    # Ordinary ends.
    "bye": "{who} hung up after {lasted}.",
    "cancel": "A gave up before B had answered.",
    # The peer.
    "peer-rejected": "Refused by B ({target}): {status} {text}.",
    "server-timeout": (
        "B ({target}) never answered our INVITE: the server is down, a firewall drops SIP, or"
        " the address in"
        " trunks is wrong. A was told {status}."
    ),
    "server-unreachable": (
        "B ({target}) could not be reached at all: nothing listens there. A was told {status}."
    ),
    "no-answer": ("B ({target}) rang and nobody picked up within timers.no_answer_s. A was told {status}."),
    "no-ack": "Our 200 OK was never acknowledged: the caller's ACK does not reach our Contact address.",
    "no-answer-in-ack": (
        "The ACK brought no answer to the offer in our 200 OK, so that no media could be agreed."
    ),
    "peer-lost": "One side stopped answering SIP in the middle of the call, and the other one was told.",
    # The four reapers.
    "media-silence": (
        "Ended by us: no media came from either side for longer than timers.rtp_silence_s ({text})."
    ),
    "media-never": (
        "Ended by us: no media ever came within timers.rtp_start_s ({text}); see the media below."
    ),
    "session-timer": "Ended by us: the session timer ran out ({text}), one side has gone without a BYE.",
    "max-duration": "Ended by us: the call reached timers.max_call_s ({lasted}).",
    "dialog-check": "Ended by us: a side no longer knows the call (timers.dialog_check_s).",
    "topology-leak": (
        "Ended by us: a message held something of the other side (see the decisions), and topology.verify is block."
    ),
    "bug": "Ended by us: this call met an error of the SBC itself; the log has its traceback.",
    # The operator.
    "drain": "Ended by us: the process was told to stop, and drain_s had passed.",
    "operator": "Ended by the operator (sbc hangup).",
    # Refusals of ours.
    "draining": "Rejected with {status}: the process is being stopped and takes no new calls.",
    "overload": "Rejected with {status}: too many messages wait (limits.queue_age_ms).",
    "no-route": ("Rejected with {status}: no rule of routes matched; the decisions show what was compared."),
    "uri-scheme": "Rejected with {status}: A calls a URI that is neither sip:, tel: nor urn:service:sos.",
    "sips-without-tls": (
        "Rejected with {status}: A calls a sips: URI, which asks for TLS all the way, and TLS is not served here."
    ),
    "user-too-long": "Rejected with {status}: a user part is too long to be matched; nobody has such a number.",
    "max-calls": "Rejected with {status}: limits.max_calls calls were in progress.",
    "rate": "Rejected with {status}: more new calls a second than limits.calls_per_s.",
    "source-rate": "Rejected with {status}: more new calls a second than limits.calls_per_s_per_source.",
    "peer-redirected": "B ({target}) redirected the call, and A was told to call elsewhere ({status}).",
    "no-common-codec": "Rejected with {status}: no codec that media.codecs allows was offered.",
    "srtp-not-supported": "Rejected with {status}: the offer asks for SRTP, which is not served here.",
    "media-not-supported": "Rejected with {status}: none of the offered media is served here ({text}).",
    "media-family": (
        "Rejected with {status}: there is no media address of that family (IPv4 or IPv6) in the network."
    ),
    "no-route-for-source": (
        "Rejected with {status}: no rule of routes is for calls from this source; the decisions show"
        " what was compared."
    ),
    "rejected-by-route": "Rejected with {status} {text}: a rule of routes says so (reject).",
    "would-loop": "Rejected with {status}: the only trunk that fits is the one that the call came from.",
    "trunk-max-calls": "Rejected with {status}: the trunk is full (trunks.*.max_calls).",
    "servers-unresolved": "Rejected with {status}: no server of the trunk has an address (DNS).",
    "no-target": "Rejected with {status}: no server was left to try.",
    "servers-down": ("Rejected with {status}: every server of the trunk is down (its OPTIONS pings fail)."),
    "media-ports-exhausted": "Rejected with {status}: no media port is free; enlarge networks.*.media_ports.",
    "no-listener": (
        "Rejected with {status}: we have no listener of that transport and address family ({text})."
    ),
    "redirect-unusable": "Rejected with {status}: B redirected, and none of its contacts can be used.",
    "trunk-wants-credentials": (
        "Rejected with {status}: the trunk asks for credentials, and none of ours fit: see the decision `credentials`."
    ),
    "session-interval-too-small": (
        "Rejected with {status}: A asks for a session timer shorter than timers.min_se_s, and should try again."
    ),
    "no-sdp-in-2xx": "B ({target}) answered without SDP, so that no media could be agreed. A was told {status}.",
    "media-address": "Rejected with {status}: the media address in the SDP is not that of a host ({text}).",
    "media-loop": (
        "Rejected with {status}: the media would go round between our own ports ({text}): SDP of ours came back"
        " from a party that is not a proxy on the way of this call."
    ),
    # Phones.
    "not-registered": (
        "Rejected with {status}: the call comes from the phones' network, by a flow that nobody has registered on"
        " (phones.calls); the phone has to register, or its NAT has given it another port since it did."
    ),
    "not-your-identity": (
        "Rejected with {status}: From names another user than the one who registered on this flow (phones.calls)."
    ),
    "no-such-user": "Rejected with {status}: no user of phones.users has that name or number.",
    "phone-not-registered": "Rejected with {status}: the called user has no phone that is registered.",
    "phone-away": (
        "Rejected with {status}: the called user's phones are registered but cannot be reached; the decision `phones`"
        " says why, and sbc registrations shows them."
    ),
    "unregistered-emergencies": (
        "Rejected with {status}: too many calls for help of phones that are not registered"
        " (emergency.unregistered_per_s, and a tenth of limits.max_calls in all)."
    ),
    "own-number": (
        "Rejected with {status}: the phone called its own number, and its user has no other phone that could ring;"
        " the decision `phones` shows them."
    ),
    "too-many-hops": (
        "Rejected with {status}: Max-Forwards was used up, so that the call is probably in a loop."
    ),
}


def judge_ending(ending: Ending) -> str:
    """How the call stands, in a sentence."""
    if ending.state == "ringing":
        return f"B ({ending.target}) has not answered yet." if ending.target else "The call is being routed."
    if ending.state == "up":
        return f"The call is up since {_duration(ending.lasted_s)}."
    known = ENDINGS.get(ending.cause)
    words = {
        "who": {"a": "A", "b": "B"}.get(ending.by, "We"),
        "lasted": _duration(ending.lasted_s),
        "target": ending.target or "no server",
        "status": ending.status,
        "text": ending.text or ending.cause,
    }
    if known is not None:
        return known.format_map(words)
    if ending.state == "failed":
        return f"Rejected with {ending.status}: {ending.text or ending.cause} (rule {ending.cause})."
    return f"Ended after {_duration(ending.lasted_s)}: {ending.text or ending.cause} ({ending.cause})."


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def findings(facts: Facts) -> list[Finding]:
    """All that is to be said about a call, most important first; how it stands or ended comes before its media."""
    ending = facts.ending
    known = ending.cause if ending.state in ("ended", "failed") else ending.state
    calm = ending.state in ("ringing", "up") or ending.cause in ("bye", "cancel", "operator")
    found = [Finding(known, judge_ending(ending), "", calm)]
    # The media of a call that was never answered says nothing: early media is a courtesy.
    if ending.state in ("up", "ended"):
        for stream in facts.streams:
            found.extend(stream_findings(stream))
    return found


def verdict(facts: Facts) -> list[str]:
    """The sentences of `findings`."""
    return [finding.text for finding in findings(facts)]
