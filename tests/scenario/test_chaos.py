"""Any message at any time: whatever two agents do, no call is left over and each has one record (design.md s.4.5)."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signaling.flow import Flow
from signaling.message import Message, Request, Response
from signaling.parser import parse
from tests.harness.border import Agent, Border, audio
from tests.harness.forks import at, ring, to_phones

STATUSES = (100, 180, 183, 199, 200, 202, 302, 401, 404, 408, 422, 481, 486, 487, 488, 491, 500, 503, 603)
METHODS = (
    "INVITE",
    "ACK",
    "BYE",
    "UPDATE",
    "INFO",
    "OPTIONS",
    "MESSAGE",
    "NOTIFY",
    "PRACK",
    "REFER",
    "CANCEL",
)
WAITS = (0.0, 0.3, 0.6, 5.0, 40.0, 200.0, 1000.0)
BODIES = ("", "offer", "hold", "unchanged", "garbage", "savp")
CONFIG_CHANGES = "\ntimers: {max_call_s: 3000, session_expires_s: 600, dialog_check_s: 500}\n"


class Chaos:
    """Agents that send what they are told to, whether it makes sense or not: alice, and bob or his phones."""

    def __init__(self, data: Any, phones: int = 0) -> None:
        self.data = data
        self.border = Border(changes=lambda text: (to_phones(text) if phones else text) + CONFIG_CHANGES)
        self.alice = self.border.agent("public", "203.0.113.77:5070")
        self.callees = [self.border.agent("private", "10.0.0.20:5060")]
        if phones:
            self.callees = [self.border.agent("private", f"10.0.0.3{n}:506{n}") for n in range(phones)]
            groups = sorted(self.draw(0, 1, 1, 2) for _ in self.callees)
            ring_s = self.draw(0.0, 20.0)
            ring(self.border, [at(*one, ring_s) for one in zip(self.callees, groups, strict=True)])
        self.agents = [self.alice, *self.callees]
        self.seen: dict[Agent, list[Message]] = {agent: [] for agent in self.agents}
        self.sent: dict[Agent, list[bytes]] = {agent: [] for agent in self.agents}
        # Of each INVITE that opens a leg the first final answer, while the transaction waits for it for sure.
        self.decided: set[str] = set()
        self.accepted: list[tuple[str, int, str]] = []
        self.came: dict[str, float] = {}
        self.losing = False
        self.border.lose = self.lose
        for agent in self.agents:
            self.remember(agent)
        self.version = 1
        self.first: Request

    def remember(self, agent: Agent) -> None:
        raw = agent.raw

        def remembering(text: str | bytes) -> None:
            self.sent[agent].append(text.encode() if isinstance(text, str) else text)
            raw(text)

        agent.raw = remembering  # type: ignore[method-assign]

    def draw(self, *values: Any) -> Any:
        return self.data.draw(st.sampled_from(values))

    def body(self, agent: Agent) -> str:
        kind = self.draw(*BODIES)
        self.version += 1
        host = agent.address[0]
        match kind:
            case "":
                return ""
            case "hold":
                return audio(host, direction="sendonly", version=self.version)
            case "unchanged":
                return audio(host)
            case "garbage":
                return "v=0\r\nthis is no SDP\r\n"
            case "savp":
                return audio(host, version=self.version).replace("RTP/AVP", "RTP/SAVP")
            case _:
                return audio(host, self.draw(4000, 4002, 5000), version=self.version)

    def collect(self) -> None:
        for agent, seen in self.seen.items():
            seen.extend(agent.inbox)
            agent.inbox.clear()

    def lose(self, data: bytes, flow: Flow) -> bool:
        """Whether what we send is lost; and when each INVITE was sent first."""
        if data.startswith(b"INVITE "):
            self.came.setdefault(parse(data).via.branch or "", self.border.now)
        return self.losing

    def decide(self, agent: Agent, request: Request, status: int, tag: str | None) -> None:
        """Note an answer to an INVITE that opened a leg: its first 2xx is to be acknowledged."""
        branch = request.via.branch or ""
        if (
            agent is self.alice
            or request.method != "INVITE"
            or status < 200
            or branch not in self.came
            or branch in self.decided
        ):
            return
        self.decided.add(branch)
        if status < 300 and self.border.now - self.came[branch] < 30:
            self.accepted.append((request.call_id, request.cseq.number, tag or agent.tag))

    def acknowledged(self) -> set[tuple[str, int, str]]:
        """Call-ID, CSeq and tag of every ACK that went to a callee."""
        acks = (parse(data) for data, flow in self.border.sent if data.startswith(b"ACK "))
        return {(ack.call_id, ack.cseq.number, ack.to.tag or "") for ack in acks}

    def step(self) -> None:
        self.collect()
        agent = self.draw(*self.agents)
        requests = [m for m in self.seen[agent] if isinstance(m, Request)]
        answers = [m for m in self.seen[agent] if isinstance(m, Response) and m.contacts]
        match self.draw("answer", "answer", "answer", "inside", "repeat", "wait", "cancel", "lose"):
            case "answer" if requests:
                request = self.draw(*requests[-4:])
                if request.method != "ACK":
                    body = self.body(agent) if request.method in ("INVITE", "UPDATE") else ""
                    status, tag = self.draw(*STATUSES), self.draw(None, "fork1", "fork2")
                    self.decide(agent, request, status, tag)
                    agent.answer(
                        request, status, sdp=body, tag=tag,
                        fields="Require: timer\r\nSession-Expires: 600;refresher=uas" if self.draw(0, 1) else "",
                    )  # fmt: skip
            case "inside":
                of = answers if agent is self.alice else [m for m in requests if m.method == "INVITE"]
                if of:
                    method = self.draw(*METHODS)
                    body = self.body(agent) if method in ("INVITE", "UPDATE", "ACK") else ""
                    chosen = self.draw(*of[-3:])
                    cseq = chosen.cseq.number if method in ("ACK", "CANCEL") else self.draw(None, None, 1)
                    agent.inside(method, chosen, body=body, cseq=cseq)
            case "repeat" if self.sent[agent]:
                agent.raw(self.draw(*self.sent[agent][-3:]))
            case "wait":
                self.border.advance(self.draw(*WAITS))
            case "cancel" if agent is self.alice and self.sent[agent]:
                agent.cancel(self.first)
            case "lose":
                self.losing = self.draw(False, True)
            case _:
                self.border.advance(0.1)

    def run(self, steps: int) -> None:
        self.first = self.alice.invite(sdp=self.body(self.alice))
        for _ in range(steps):
            self.step()


def never(data: bytes, flow: Flow) -> bool:
    return False


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(1, 25))
def test_nothing_is_left_whatever_happens(data: Any, steps: int) -> None:
    left_over(Chaos(data), steps)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(2, 3), st.integers(1, 30))
def test_nothing_is_left_whatever_several_phones_do(data: Any, phones: int, steps: int) -> None:
    """Nor does more than one of them have the call, and none waits for the ACK of its 2xx (RFC 3261 s.13.2.2.4)."""
    chaos = Chaos(data, phones)
    left_over(chaos, steps)
    assert all([one.rule for one in record.targets].count("answered") <= 1 for record in chaos.border.records)
    assert set(chaos.accepted) <= chaos.acknowledged()


def left_over(chaos: Chaos, steps: int) -> None:
    """Run it, and see that nothing is."""
    chaos.run(steps)
    border = chaos.border
    border.lose = never
    # Both sides go silent: the session timer, the dialog check or the maximum duration ends what stands.
    border.advance(4000)
    border.at_rest()
    assert len(border.records) == len({record.id for record in border.records})
    assert all(record.ended_at is not None for record in border.records)
