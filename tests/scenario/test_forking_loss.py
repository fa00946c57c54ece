"""Forking over a network that loses and doubles what is sent: user agents that repeat as RFC 3261 s.17 says."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from signaling.flow import Address, Flow
from signaling.message import Request, Response
from signaling.parser import parse
from tests.harness.border import Agent, Border, audio
from tests.harness.forks import at, ring, to_phones

T1, T2 = 0.5, 4.0
TIMER_B = 64 * T1
HEARD_S = 15.0
"""By then something that is repeated has come through, whatever is lost."""
TICK_S = 0.1
FINALS = (200, 200, 200, 486, 404, 503, 603, 0)


@dataclass
class Repeat:
    """Something that is sent until it is answered, or for 64*T1."""

    send: Callable[[], None]
    interval: float
    at: float
    ends: float


class Repeats:
    """What a user agent has sent and must repeat, by a name."""

    def __init__(self, border: Border) -> None:
        self.border = border
        self.pending: dict[str, Repeat] = {}

    def start(self, name: str, send: Callable[[], None]) -> None:
        now = self.border.now
        self.pending[name] = Repeat(send, T1, now + T1, now + 64 * T1)
        send()

    def stop(self, name: str) -> None:
        self.pending.pop(name, None)

    def tick(self) -> None:
        for name, one in list(self.pending.items()):
            if self.border.now >= one.ends:
                del self.pending[name]
            elif self.border.now >= one.at:
                one.interval = min(2 * one.interval, T2)
                one.at = self.border.now + one.interval
                one.send()


@dataclass
class Plan:
    """What a phone does: when it rings (-1: never) and answers, in seconds after the INVITE, and with what."""

    ring_s: float
    answer_s: float
    status: int


@dataclass
class Phone:
    """One that is called. `talks` are its dialogs that nobody has ended."""

    agent: Agent
    plan: Plan
    repeats: Repeats
    invite: Request | None = None
    due: list[tuple[float, int]] = field(default_factory=list)
    last: int = 0
    finals: set[int] = field(default_factory=set)
    final_at: float = 0.0
    acked: bool = False
    released: bool = False

    def say(self, status: int) -> None:
        invite = self.invite
        assert invite is not None
        self.last = status
        sdp = audio(self.agent.address[0], 4002) if status == 200 else ""
        if status < 200:
            self.agent.answer(invite, status)
        elif not self.finals:
            self.finals.add(status)
            self.final_at = self.agent.border.now
            self.repeats.start("final", lambda: self.agent.answer(invite, status, sdp=sdp))

    def tick(self) -> None:
        now = self.agent.border.now
        while self.agent.inbox:
            message = self.agent.inbox.pop(0)
            if isinstance(message, Request):
                self.take(message, now)
        for at_s, status in [one for one in self.due if one[0] <= now]:
            self.due.remove((at_s, status))
            if not self.finals:
                self.say(status)
        self.repeats.tick()

    def take(self, request: Request, now: float) -> None:
        match request.method:
            case "INVITE" if self.invite is None:
                self.invite = request
                if self.plan.ring_s >= 0:
                    self.due.append((now + self.plan.ring_s, 180))
                if self.plan.status:
                    self.due.append((now + self.plan.answer_s, self.plan.status))
            case "INVITE" if self.last and not self.finals:
                self.say(self.last)
            case "ACK":
                self.acked = True
                self.repeats.stop("final")
            case "CANCEL":
                self.agent.answer(request, 200)
                if not self.finals:
                    self.say(487)
            case "BYE":
                self.agent.answer(request, 200)
                self.released = True
            case _:
                pass


class Caller:
    """One that calls, perhaps gives up, and hangs up when it was answered."""

    def __init__(self, agent: Agent, cancel_s: float | None) -> None:
        self.agent = agent
        self.repeats = Repeats(agent.border)
        self.cancel_at = None if cancel_s is None else agent.border.now + cancel_s
        self.tags: set[str] = set()
        self.final = 0
        self.talk_until: float | None = None
        self.answer: Response | None = None
        self.invite = agent.invite()
        text = self.invite.encode()
        self.repeats.start("INVITE", lambda: agent.raw(text))

    def tick(self) -> None:
        now = self.agent.border.now
        while self.agent.inbox:
            message = self.agent.inbox.pop(0)
            if isinstance(message, Request):
                self.agent.answer(message, 200)
            elif isinstance(message, Response) and message.cseq.method == "INVITE":
                self.take(message, now)
            else:
                self.repeats.stop(message.cseq.method)
        if self.cancel_at is not None and now >= self.cancel_at and not self.final:
            self.cancel_at = None
            self.repeats.start("CANCEL", lambda: self.agent.cancel(self.invite))
        if self.talk_until is not None and now >= self.talk_until and self.answer is not None:
            self.talk_until = None
            bye = self.agent.inside("BYE", self.answer).encode()
            self.repeats.start("BYE", lambda: self.agent.raw(bye))
        self.repeats.tick()

    def take(self, response: Response, now: float) -> None:
        self.repeats.stop("INVITE")
        if response.status < 200:
            return
        if response.status < 300:
            self.tags.add(response.to.tag or "")
            self.agent.ack(response)
            if self.answer is None:
                self.answer, self.talk_until = response, now + 5
        else:
            self.agent.raw(
                f"ACK {self.invite.uri} SIP/2.0\r\nVia: {self.invite.get('Via')}\r\n"
                f"From: {self.invite.get('From')}\r\nTo: {response.get('To')}\r\n"
                f"Call-ID: {response.call_id}\r\nCSeq: {response.cseq.number} ACK\r\nContent-Length: 0\r\n\r\n"
            )
        self.final = response.status


def lossy(agent: Agent, chance: random.Random, loss: float, doubling: float) -> None:
    """What the agent sends is lost or comes twice."""
    raw = agent.raw

    def send(text: str | bytes) -> None:
        for _ in range(2 if chance.random() < doubling else 1):
            if chance.random() >= loss:
                raw(text)

    agent.raw = send  # type: ignore[method-assign]


PLANS = st.builds(
    Plan,
    st.sampled_from((-1.0, 0.0, 0.2, 3.0)),
    st.sampled_from((0.3, 2.0, 2.0, 8.0)),
    st.sampled_from(FINALS),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(PLANS, min_size=2, max_size=4),
    st.lists(st.sampled_from((1, 1, 2)), min_size=4, max_size=4),
    st.sampled_from((None, None, None, 0.1, 2.0, 8.0)),
    st.integers(0, 2**32),
    st.sampled_from((0.0, 0.1, 0.3)),
    st.sampled_from((0.0, 0.3)),
)
@example([Plan(-1.0, 2.0, 200)] * 2, [1, 1, 1, 1], None, 2041, 0.3, 0.0)
def test_one_call_at_most_and_nobody_is_left(
    plans: list[Plan], groups: list[int], cancel_s: float | None, seed: int, loss: float, doubling: float
) -> None:
    border, chance = Border(changes=to_phones), random.Random(seed)
    agents = [border.agent("private", f"10.0.0.3{number}:506{number}") for number in range(len(plans))]
    ring(border, [at(*one, ring_s=5.0) for one in zip(agents, sorted(groups[: len(agents)]), strict=True)])
    phones = [Phone(agent, plan, Repeats(border)) for agent, plan in zip(agents, plans, strict=True)]
    alice = border.agent("public", "203.0.113.77:5070")
    for agent in (alice, *agents):
        lossy(agent, chance, loss, doubling)

    asked: dict[Address, float] = {}

    def lose(data: bytes, flow: Flow) -> bool:
        if data.startswith(b"INVITE "):
            asked.setdefault(flow.remote, border.now)
        if chance.random() < doubling and chance.random() >= loss:
            border.agents[flow.network, flow.remote].inbox.append(parse(data))
        return chance.random() < loss

    border.lose = lose
    caller = Caller(alice, cancel_s)
    for _ in range(2600):  # longer than a phone may ring, and than anything is repeated
        caller.tick()
        for phone in phones:
            phone.tick()
        border.advance(TICK_S)
    assert len(caller.tags) <= 1
    (record,) = border.records
    assert [one.rule for one in record.targets].count("answered") <= 1
    if not loss:
        assert (caller.final == 200) == (record.answered_at is not None)
        assert caller.final
    for phone in phones:
        if not phone.finals or phone.final_at > asked[phone.agent.address] + TIMER_B - HEARD_S:
            continue  # one that has got the last INVITE of many may speak when nobody listens any more
        assert phone.acked, "its final answer has come through, and so has the ACK"
        if 200 in phone.finals:
            assert phone.released, "it is in no call any more"
    border.lose = lambda data, flow: False
    border.at_rest()
