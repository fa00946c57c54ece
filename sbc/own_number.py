"""Whether a registrar calls a phone with the very call that this phone has made: a user who calls his own number.

The registrar rings all phones of the user, since it does not know which of them he holds in his hand; we do. A proxy
hands our own request on, by whose Call-ID and tag it is known. Another B2BUA makes a call of its own of it: then it is
one that names the user as the caller, while that phone of his still waits for somebody to answer.
"""

from collections.abc import Collection, Mapping

from sbc.switchboard import Live, dialog_key
from signaling.flow import Flow
from signaling.leg import Leg
from signaling.message import Request


def callers_of(
    request: Request,
    caller: str,
    called: str,
    dialogs: Mapping[str, tuple[Live, Leg]],
    calls: Collection[Live],
) -> tuple[Flow, ...]:
    """The flows of those phones of the user `called` whose call `request` of their registrar is, or may be.

    `caller` is the user of From; `dialogs` and `calls` are what is in progress.
    """
    known = dialogs.get(dialog_key(request.call_id, request.from_tag or ""))
    if known is not None:
        return _flow(known[0], called)
    if caller != called:
        return ()
    return tuple(flow for live in calls if live.record.answered_at is None for flow in _flow(live, called))


def _flow(live: Live, user: str) -> tuple[Flow, ...]:
    """The flow of the phone that calls, when it is one of `user`."""
    if live.call is None or live.phones.get("a") != user:
        return ()
    return (live.call.a.flow,)
