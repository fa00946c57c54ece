"""The four transaction machines of RFC 3261 s.17 as tables, with RFC 6026 and RFC 4320, and their timers."""

from dataclasses import dataclass
from enum import IntEnum
from math import inf

TRYING_DELAY_S = 0.2  # RFC 3261 s.17.2.1, for a layer that does not send 100 at once


# IntEnum hashes in C, a plain Enum in Python: the tables are looked up several times for each message.
class State(IntEnum):
    """The states of all four machines (RFC 3261 figures 5 to 8, RFC 6026 figures 1 and 2)."""

    CALLING = 1
    TRYING = 2
    PROCEEDING = 3
    ACCEPTED = 4
    COMPLETED = 5
    CONFIRMED = 6
    TERMINATED = 7


class Input(IntEnum):
    """What moves a machine: responses (received, or given by the user), requests, timers, failures."""

    PROVISIONAL = 1
    SUCCESS = 2
    FAILURE = 3  # 300-699
    SILENT = 4  # the user has no answer that RFC 4320 allows
    REQUEST = 5  # a retransmission of the request
    ACK = 6
    CANCEL = 7  # the user of a client transaction wants to cancel
    RESEND = 8  # timers A, E, G, and the time for an automatic 100
    DEADLINE = 9  # timers B, D, F, H, I, J, K, L, M
    TRANSPORT_ERROR = 10


class Do(IntEnum):
    """Actions of the tables."""

    TRANSMIT = 1  # send the response just given
    REPEAT = 2  # send the last bytes again
    RETRANSMIT = 3  # the same because a timer says so: doubles the interval
    PASS_UP = 4
    ACK = 5  # RFC 3261 s.17.1.1.3
    CANCEL = 6  # send the CANCEL that waits for a provisional response (s.9.1)
    TRYING = 7  # send 100
    TIMED_OUT = 8
    FAILED = 9


Row = tuple[State, tuple[Do, ...]]
Table = dict[tuple[State, Input], Row]

# RFC 6026 s.7.2 figure 2. In PROCEEDING a deadline runs only after a CANCEL (RFC 3261 s.9.1).
INVITE_CLIENT: Table = {
    (State.CALLING, Input.RESEND): (State.CALLING, (Do.RETRANSMIT,)),
    (State.CALLING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.CALLING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Do.FAILED,)),
    (State.CALLING, Input.CANCEL): (State.CALLING, ()),
    (State.CALLING, Input.PROVISIONAL): (State.PROCEEDING, (Do.CANCEL, Do.PASS_UP)),
    (State.CALLING, Input.SUCCESS): (State.ACCEPTED, (Do.PASS_UP,)),
    (State.CALLING, Input.FAILURE): (State.COMPLETED, (Do.ACK, Do.PASS_UP)),
    (State.PROCEEDING, Input.CANCEL): (State.PROCEEDING, (Do.CANCEL,)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.PASS_UP,)),
    (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Do.PASS_UP,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.ACK, Do.PASS_UP)),
    (State.PROCEEDING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, (Do.PASS_UP,)),
    (State.ACCEPTED, Input.DEADLINE): (State.TERMINATED, ()),
    (State.COMPLETED, Input.FAILURE): (State.COMPLETED, (Do.ACK,)),
    (State.COMPLETED, Input.DEADLINE): (State.TERMINATED, ()),
    (State.COMPLETED, Input.TRANSPORT_ERROR): (State.TERMINATED, (Do.FAILED,)),
}

# RFC 3261 s.17.1.2 figure 6.
CLIENT: Table = {
    (State.TRYING, Input.RESEND): (State.TRYING, (Do.RETRANSMIT,)),
    (State.TRYING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.TRYING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Do.FAILED,)),
    (State.TRYING, Input.PROVISIONAL): (State.PROCEEDING, (Do.PASS_UP,)),
    (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Do.PASS_UP,)),
    (State.TRYING, Input.FAILURE): (State.COMPLETED, (Do.PASS_UP,)),
    (State.PROCEEDING, Input.RESEND): (State.PROCEEDING, (Do.RETRANSMIT,)),
    (State.PROCEEDING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.PROCEEDING, Input.TRANSPORT_ERROR): (State.TERMINATED, (Do.FAILED,)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.PASS_UP,)),
    (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Do.PASS_UP,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.PASS_UP,)),
    (State.COMPLETED, Input.DEADLINE): (State.TERMINATED, ()),
}

# The responses of a CANCEL mean nothing to the user, but must end its retransmissions.
CANCEL_CLIENT: Table = {
    at: (state, tuple(do for do in actions if do is Do.RETRANSMIT)) for at, (state, actions) in CLIENT.items()
}

# RFC 6026 s.7.1 figure 1. A 2xx is retransmitted by the user, so timer G never runs in ACCEPTED. A transport
# error does not end a server transaction any more (RFC 6026 s.8.9): the next retransmission tries again.
INVITE_SERVER: Table = {
    (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Do.REPEAT,)),
    (State.PROCEEDING, Input.RESEND): (State.PROCEEDING, (Do.TRYING,)),
    (State.PROCEEDING, Input.PROVISIONAL): (State.PROCEEDING, (Do.TRANSMIT,)),
    (State.PROCEEDING, Input.SUCCESS): (State.ACCEPTED, (Do.TRANSMIT,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.TRANSMIT,)),
    (State.ACCEPTED, Input.REQUEST): (State.ACCEPTED, ()),
    (State.ACCEPTED, Input.SUCCESS): (State.ACCEPTED, (Do.TRANSMIT,)),
    (State.ACCEPTED, Input.ACK): (State.ACCEPTED, (Do.PASS_UP,)),
    (State.ACCEPTED, Input.DEADLINE): (State.TERMINATED, ()),
    (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Do.REPEAT,)),
    (State.COMPLETED, Input.RESEND): (State.COMPLETED, (Do.RETRANSMIT,)),
    (State.COMPLETED, Input.ACK): (State.CONFIRMED, ()),
    (State.COMPLETED, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.COMPLETED, Input.TRANSPORT_ERROR): (State.COMPLETED, (Do.FAILED,)),
    (State.CONFIRMED, Input.REQUEST): (State.CONFIRMED, ()),
    (State.CONFIRMED, Input.ACK): (State.CONFIRMED, ()),
    (State.CONFIRMED, Input.DEADLINE): (State.TERMINATED, ()),
}

# RFC 3261 s.17.2.2 figure 8 with RFC 4320 s.4: 100 is sent by the layer alone and late, never 408, and nothing
# once the client has given up (timer F), which is when an unanswered transaction ends.
SERVER: Table = {
    (State.TRYING, Input.REQUEST): (State.TRYING, ()),
    (State.TRYING, Input.RESEND): (State.PROCEEDING, (Do.TRYING,)),
    (State.TRYING, Input.SUCCESS): (State.COMPLETED, (Do.TRANSMIT,)),
    (State.TRYING, Input.FAILURE): (State.COMPLETED, (Do.TRANSMIT,)),
    (State.TRYING, Input.SILENT): (State.COMPLETED, ()),
    (State.TRYING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.PROCEEDING, Input.REQUEST): (State.PROCEEDING, (Do.REPEAT,)),
    (State.PROCEEDING, Input.SUCCESS): (State.COMPLETED, (Do.TRANSMIT,)),
    (State.PROCEEDING, Input.FAILURE): (State.COMPLETED, (Do.TRANSMIT,)),
    (State.PROCEEDING, Input.SILENT): (State.COMPLETED, ()),
    (State.PROCEEDING, Input.DEADLINE): (State.TERMINATED, (Do.TIMED_OUT,)),
    (State.COMPLETED, Input.REQUEST): (State.COMPLETED, (Do.REPEAT,)),
    (State.COMPLETED, Input.DEADLINE): (State.TERMINATED, ()),
}

Clocks = dict[State, tuple[float, float | None]]
"""What a state starts when entered: seconds to RESEND and to DEADLINE; `inf` stops one, None lets it run on."""


@dataclass(frozen=True, slots=True)
class TimerValues:
    """The three base values of RFC 3261 table 4, in seconds; all other timers are derived from them."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0

    @property
    def give_up_s(self) -> float:
        """Timers B, F, H, J, L and M: 64 times T1."""
        return 64 * self.t1

    @property
    def trying_after_s(self) -> float:
        """When timer E of the client has grown to T2: the time for 100 to a non-INVITE (RFC 4320 s.4.1)."""
        total, interval = 0.0, self.t1
        while interval < self.t2:
            total += interval
            interval *= 2
        return total

    def invite_client(self, reliable: bool) -> Clocks:
        """Timers A, B, D and M. A reliable transport needs no retransmission and no lingering for one."""
        return {
            State.CALLING: (inf if reliable else self.t1, self.give_up_s),
            State.PROCEEDING: (inf, inf),
            State.ACCEPTED: (inf, self.give_up_s),
            State.COMPLETED: (inf, 0.0 if reliable else max(32.0, self.give_up_s)),
        }

    def client(self, reliable: bool) -> Clocks:
        """Timers E, F and K."""
        return {
            State.TRYING: (inf if reliable else self.t1, self.give_up_s),
            State.PROCEEDING: (inf if reliable else self.t2, None),
            State.COMPLETED: (inf, 0.0 if reliable else self.t4),
        }

    def invite_server(self, reliable: bool, trying_at_once: bool) -> Clocks:
        """Timers G, H, I and L, and when to send 100."""
        return {
            State.PROCEEDING: (inf if trying_at_once else TRYING_DELAY_S, inf),
            State.ACCEPTED: (inf, self.give_up_s),
            State.COMPLETED: (inf if reliable else self.t1, self.give_up_s),
            State.CONFIRMED: (inf, 0.0 if reliable else self.t4),
        }

    def server(self, reliable: bool) -> Clocks:
        """Timer J, when to send 100, and when the client has given up (RFC 4320 s.4)."""
        return {
            State.TRYING: (self.trying_after_s, self.give_up_s),
            State.PROCEEDING: (inf, None),
            State.COMPLETED: (inf, 0.0 if reliable else self.give_up_s),
        }
