"""What the peers are told of why a call ends (RFC 3326)."""

from signaling.events import Rejected, Released
from signaling.phrases import reason_phrase
from signaling.topology import Carried

# What the peers are told of why we end a call (RFC 3326), by ITU-T Q.850 s.2.2.7: the nearest cause there is.
_Q850 = {
    "bug": (41, "Temporary failure"),
    "drain": (16, "Normal call clearing"),
    "operator": (16, "Normal call clearing"),
    "max-duration": (31, "Normal, unspecified"),
    "peer-lost": (27, "Destination out of order"),
}
_TIMER_EXPIRED = (102, "Recovery on timer expiry")


def reason_of(cause: str) -> Carried:
    """The Reason of a BYE that we send for `cause`; a timer of ours unless the table says otherwise."""
    number, text = _Q850.get(cause, _TIMER_EXPIRED)
    return Carried((("Reason", f'Q.850;cause={number};text="{text}"'),))


def sip_reason(event: Rejected) -> Carried:
    """The Reason of a CANCEL that somebody's final answer causes (RFC 3326 s.2)."""
    return Carried((("Reason", f'SIP;cause={event.status};text="{reason_phrase(event.status)}"'),))


# RFC 3326 s.2: so that the phones that lost show no missed call.
ELSEWHERE = Released(
    "answered-elsewhere",
    "another one has answered",
    Carried((("Reason", 'SIP;cause=200;text="Call completed elsewhere"'),)),
)
