"""Any message at any time from a trunk that challenges as it likes: nothing is left, nobody else gets credentials."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.load import load
from signaling.message import Request
from signaling.parser import parse
from tests.harness.border import CONFIG, Agent, established
from tests.scenario.test_chaos import CONFIG_CHANGES, STATUSES, Chaos, left_over

CREDENTIALS = 'pbx: {credentials: {username: u, password: "p", realm: "r"}, '
INSTEAD = (199, 202, 302, 404, 422, 486, 488, 503, 603)
"""What a challenge takes the place of, so that there are many."""
NAMES = ("Authorization", "Proxy-Authorization")


class Challenger(Agent):
    """An agent whose 401 and 407 hold challenges: of few nonces, so that they repeat, and not always of our realm."""

    chaos: "Challenging"

    def answer(
        self,
        request: Request,
        status: int,
        reason: str = "Reason",
        *,
        sdp: str = "",
        tag: str | None = None,
        fields: str = "",
    ) -> None:
        """Answer a request that came."""
        draw = self.chaos.draw
        if status in INSTEAD:
            status = 401 if draw(True, False) else 407
        if status in (401, 407):
            name = "WWW" if status == 401 else "Proxy"
            realm, nonce, stale = draw("r", "r", "r", "other"), draw(*"abcd"), draw("", ", stale=true")
            fields = (
                f'{name}-Authenticate: Digest realm="{realm}", nonce="{nonce}", qop="auth"{stale}\r\n{fields}'
            )
        super().answer(request, status, reason, sdp=sdp, tag=tag, fields=fields)


class Challenging(Chaos):
    """Chaos with a trunk that we have credentials for."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        text = (CONFIG + CONFIG_CHANGES).replace("pbx: {", CREDENTIALS, 1)
        self.border.calls.reload(load(text), self.border.now)
        bob = Challenger(self.border, "private", ("10.0.0.20", 5060), "udp")
        bob.chaos = self
        self.callees = [bob]
        self.agents = [self.alice, bob]
        self.seen = {agent: [] for agent in self.agents}
        self.sent = {agent: [] for agent in self.agents}
        self.looked_at = 0
        for agent in self.agents:
            self.remember(agent)

    def step(self) -> None:
        """What came to the trunk is answered more often than not, so that there is something to be challenged."""
        self.collect()
        bob = self.callees[0]
        for message in self.seen[bob][self.looked_at :]:
            if isinstance(message, Request) and message.method != "ACK" and self.draw(True, True, False):
                sdp = self.body(bob) if message.method in ("INVITE", "UPDATE") else ""
                bob.answer(message, self.draw(*STATUSES), sdp=sdp)
        self.looked_at = len(self.seen[bob])
        super().step()

    def run(self, steps: int) -> None:
        """Half of the time the call stands when it begins."""
        if self.draw(False, True):
            super().run(steps)
            return
        bob = self.callees[0]
        answer, invite = established(self.border, self.alice, bob)
        self.seen[self.alice].append(answer)
        self.seen[bob].append(invite)
        sent = parse(self.sent[self.alice][0])
        assert isinstance(sent, Request)
        self.first = sent
        for _ in range(steps):
            self.step()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(1, 30))
def test_nothing_is_left_whatever_is_challenged(data: Any, steps: int) -> None:
    chaos = Challenging(data)
    left_over(chaos, steps)
    counts: set[str] = set()
    for sent, flow in dict.fromkeys(chaos.border.sent):
        message = parse(sent)
        lines = [line for name in NAMES for line in message.get_all(name)]
        if not lines:
            continue
        assert isinstance(message, Request)
        assert flow.remote[0] == "10.0.0.20"
        assert all('realm="r"' in line for line in lines)
        assert message.method != "CANCEL"
        if message.method != "ACK":
            # RFC 7616 s.3.4: no count of a nonce is used twice.
            assert counts.isdisjoint(lines)
            counts.update(lines)
    requests = {
        (parse(sent).call_id, parse(sent).cseq.number, parse(sent).cseq.method)
        for sent, _ in chaos.border.sent
        if not sent.startswith((b"SIP/2.0", b"ACK", b"CANCEL"))
    }
    assert len(requests) <= 3 * (steps + 20), "challenges make no flood"
