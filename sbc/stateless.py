"""What is answered and not kept (RFC 3261 s.8.2.7): overload, OPTIONS, challenges to REGISTER, what cannot be read.

No transaction is made for it, so nobody fills our memory by asking. `signaling.stateless` reads and writes the plainest
of it without parsing, `sbc.reflection` keeps it from being turned against others.
"""

from collections import Counter
from collections.abc import Callable

from config.model import Config
from sbc.answers import CLOSING_ANSWER, OPTIONS_ANSWER, RETRY_AFTER_S, raw_fields
from sbc.phones import Phones
from sbc.reception import Reception
from sbc.reflection import Reflection
from sbc.sites import Sites
from signaling.flow import Flow
from signaling.message import Request
from signaling.parser import ParseLimits, refuse
from signaling.stateless import lines, read
from signaling.transaction import Transactions, Transmit

_OPTIONS = f"{OPTIONS_ANSWER[0]} {OPTIONS_ANSWER[1]}", lines(OPTIONS_ANSWER[2])


class Stateless:
    """The answers of one process that nothing is kept of. `queue_age_s` is how late we may be before we refuse."""

    def __init__(
        self,
        transactions: Transactions,
        phones: Phones,
        reception: Reception,
        stats: Counter[str],
        *,
        send: Callable[[bytes, Flow], None],
    ) -> None:
        self._transactions = transactions
        self._phones = phones
        self._reception = reception
        self._stats = stats
        self._send = send
        self._reflection = Reflection()

    def configure(self, config: Config, sites: Sites, limits: ParseLimits) -> None:
        """Serve by this configuration from now on."""
        self.queue_age_s = config.limits.queue_age_ms / 1000
        self._sites = sites
        self._limits = limits

    def answers(self, data: bytes, flow: Flow, now: float, age_s: float) -> bool:
        """Whether these bytes are refused since we are late or full, or answered after no more than a glance at them.

        A glance tells what those would say who read it in full.
        """
        if age_s > self.queue_age_s and self._reception.can_wait(data, flow, now):
            # RFC 7339 s.1, RFC 3261 s.21.5.4: refusing must stay cheaper than serving.
            later = self._phones.retry_after_s(data, now)
            self.refuse(data, flow, 503, "Service Unavailable", "overload", now, later)
            return True
        if data.startswith(b"INVITE "):
            full = self._reception.no_room(data, flow, now)
            if full is not None:
                later = full.retry_after_s or RETRY_AFTER_S
                self.refuse(data, flow, full.status, full.reason, full.rule, now, later)
            return full is not None
        options = data.startswith(b"OPTIONS ")
        if not (options or data.startswith(b"REGISTER ")) or flow.transport != "udp":
            return False
        limits = self._limits
        if len(data) > limits.max_message_bytes or self._sites.is_former(flow):
            return False
        plain = read(data, flow, limits.max_headers)
        if plain is None:
            return False
        answer = plain.answer(*_OPTIONS) if options else self._phones.answer(plain, flow, now)
        if answer is None:
            return False
        self._reply(data, answer, flow, now)
        return True

    def answers_request(self, request: Request, data: bytes, flow: Flow, now: float) -> bool:
        """The same of what had to be read in full, from `data`."""
        if request.method == "OPTIONS":
            if request.to_tag is not None:
                return False
            answer = CLOSING_ANSWER if self._sites.is_former(flow) else OPTIONS_ANSWER
        elif request.method == "REGISTER" and not self._sites.is_former(flow):
            challenge = self._phones.challenge(request, flow, now)
            if challenge is None:
                return False
            answer = challenge
        else:
            return False
        for sent in self._transactions.answer(request, flow, *answer):
            assert isinstance(sent, Transmit)
            self._reply(data, sent.data, sent.flow, now)
        return True

    def refuse(
        self,
        data: bytes,
        flow: Flow,
        status: int,
        reason: str,
        rule: str,
        now: float,
        retry_after_s: int = RETRY_AFTER_S,
    ) -> None:
        """Refuse a message as it came, if it can be answered at all."""
        self._stats[f"refused:{rule}"] += 1
        answer = refuse(data, status, reason, raw_fields(status, rule, retry_after_s))
        if answer is not None:
            self._reply(data, answer, flow, now)

    def _reply(self, asked: bytes, answer: bytes, flow: Flow, now: float) -> None:
        """Send an answer: seldom to a stranger when it is larger than what `asked` for it."""
        if (
            len(answer) > len(asked)
            and not flow.reliable
            and not asked.startswith(b"OPTIONS ")  # how peers of every kind look whether we are there
            and not self._reception.knows(flow, now)
            and not self._reflection.may_enlarge(flow.remote[0], now)
        ):
            self._stats["dropped:reflection"] += 1
            return
        self._send(answer, flow)
