"""Fuzz target of whole conversations: mutated datagrams of valid calls through `Calls.receive`, in virtual time.

Invariant: whatever comes, from whatever flow, nothing is raised; one datagram, and one due timer, makes us send at
most `MAX_SENT` messages, to nobody but peers; what we send can be parsed; and when the longest timer is over, no
call, transaction, dialog, stream, port or timer is left and every call has left one record.

`python -m tests.fuzz.fuzz_calls SECONDS [SEED]` runs on its own and prints the seed that broke it.
"""

import random
import re
import sys
import time

from nat.address import is_usable
from signaling.errors import ParseError
from signaling.flow import Flow
from signaling.message import Message, Request, Response
from signaling.parser import parse
from tests.fuzz import fuzz_sip
from tests.harness.border import Agent, Border, audio

MAX_SENT = 48
"""A call that ends answers 16 requests and hangs up 16 forks in each direction at the very most."""
DEADLINE_S = 1.0
"""Far above what a datagram needs (a few ms), far below what quadratic work takes."""
LONGEST_S = 600.0
"""Past `max_call_s` below and every timer behind it."""
CHANGES = "\ntimers: {max_call_s: 300, no_answer_s: 40, session_expires_s: 200, min_se_s: 90, dialog_check_s: 120}\n"
METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "UPDATE", "INFO", "OPTIONS", "MESSAGE", "NOTIFY", "PRACK", "REFER",
           "REGISTER", "SUBSCRIBE", "FOO")  # fmt: skip
STATUSES = (
    100,
    180,
    183,
    199,
    200,
    202,
    300,
    302,
    401,
    404,
    408,
    422,
    481,
    486,
    487,
    488,
    491,
    500,
    503,
    603,
    699,
)
HOSTS = ("127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.0.1", "203.0.113.10", "999.9.9.9", "[::1]",
         "name.example", "198.51.100.9")  # fmt: skip
NUMBERS = ("0", "1", "2147483647", "2147483648", "99999999999", "-1", "65536", "x")
_DIGITS = re.compile(rb"\d{1,10}")
_HOST = re.compile(rb"(?<=[@ ])(?:\d{1,3}\.){3}\d{1,3}")
_FIRST_WORD = re.compile(rb"^[A-Z]+(?= )")


class Conversation:
    """Two phones that talk more or less sensibly, and a stranger who repeats their words with mistakes."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.border = Border(changes=lambda text: text + CHANGES)
        self.alice = self.border.agent("public", "203.0.113.77:5070")
        self.bob = self.border.agent("private", "10.0.0.20:5060")
        self.border.lose = unreadable
        tcp = Flow("public", "tcp", ("203.0.113.10", 5060), ("198.51.100.66", 40000), 9)
        stranger = Flow("public", "udp", ("203.0.113.10", 5060), ("198.51.100.66", 5060))
        self.flows = [self.alice.flow, self.bob.flow, tcp, stranger]
        self.heard: list[bytes] = []
        self.invites: list[Request] = []
        self.answers: list[Response] = []
        for agent in (self.alice, self.bob):
            self._listen_to(agent)

    def _listen_to(self, agent: Agent) -> None:
        def raw(text: str | bytes) -> None:
            data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            self.heard = [*self.heard[-15:], data]
            dice = self.chance.random()
            if dice < 0.75:
                self.receive(data, agent.flow)
            if dice > 0.6:
                self.receive(self.mutated(data), self.flow(agent.flow))

        agent.raw = raw  # type: ignore[method-assign]

    def flow(self, usual: Flow) -> Flow:
        """Mostly where it should come from."""
        return usual if self.chance.random() < 0.7 else self.chance.choice(self.flows)

    def receive(self, data: bytes, flow: Flow) -> None:
        """One datagram, with what it may cost."""
        border = self.border
        before = len(border.sent)
        begin = time.process_time()
        border.calls.receive(data, flow, border.now, self.chance.choice((0.0, 0.0, 0.0, 2.0)))
        assert time.process_time() - begin < DEADLINE_S, "too slow"
        self.check_sent(before)

    def check_sent(self, before: int) -> None:
        """What left since then is little and goes to peers."""
        sent = self.border.sent[before:]
        assert len(sent) <= MAX_SENT, f"{len(sent)} messages at once"
        listeners = {listener.local for listener in self.border.calls.sites.listeners}
        for _, flow in sent:
            assert flow.remote not in listeners, "we talk to ourselves"
            assert is_usable(flow.remote[0]), flow
            assert not flow.remote[0].startswith("127."), flow

    def advance(self, seconds: float) -> None:
        """Let time pass; each timer is bounded too."""
        border = self.border
        end = border.now + seconds
        steps = 0
        while (due := border.calls.next_timer()) is not None and due <= end:
            steps += 1
            assert steps < 20_000, "timers without end"
            border.now = max(border.now, due)
            before = len(border.sent)
            border.calls.handle_timer(border.now)
            assert len(border.sent) - before <= MAX_SENT * (1 + len(border.calls.live)), "a burst"
        border.now = end

    # -- mistakes

    def mutated(self, data: bytes) -> bytes:
        """The datagram with a mistake that a parser, or with one that only a state machine notices."""
        chance = self.chance
        for _ in range(chance.choice((1, 1, 2, 3))):
            match chance.randrange(8):
                case 0:
                    data = fuzz_sip.mutate([data, chance.choice(self.heard)], chance)
                case 1:
                    data = exchanged(data, _DIGITS, chance.choice(NUMBERS), chance)
                case 2:
                    data = exchanged(data, _HOST, chance.choice(HOSTS), chance)
                case 3:
                    data = self.line_exchanged(data)
                case 4:
                    data = self.line_taken(data)
                case 5 if not data.startswith(b"SIP/2.0"):
                    method = chance.choice(METHODS).encode()
                    before = _FIRST_WORD.search(data)
                    data = _FIRST_WORD.sub(method, data, count=1)
                    if before is not None and chance.random() < 0.8:
                        data = data.replace(b" " + before[0] + b"\r\n", b" " + method + b"\r\n", 1)
                case 6 if data.startswith(b"SIP/2.0 "):
                    data = b"SIP/2.0 %d" % chance.choice(STATUSES) + data[11:]
                case _:
                    head, _, _ = data.partition(b"\r\n\r\n")
                    head = re.sub(rb"(?i)\r\ncontent-length:[^\r]*", b"", head)
                    body = chance.choice((b"", b"v=0\r\n", audio(chance.choice(HOSTS), 4000).encode(), data))
                    data = head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        return data[:65_535]

    def line_exchanged(self, data: bytes) -> bytes:
        """A header line of another message in the place of ours of that name, or beside it."""
        lines = data.split(b"\r\n")
        other = self.chance.choice(self.chance.choice(self.heard).split(b"\r\n"))
        name = other.partition(b":")[0]
        for number, line in enumerate(lines[1:], 1):
            if line.partition(b":")[0] == name and self.chance.random() < 0.9:
                lines[number] = other
                return b"\r\n".join(lines)
        lines.insert(self.chance.randrange(1, len(lines) + 1), other)
        return b"\r\n".join(lines)

    def line_taken(self, data: bytes) -> bytes:
        """Without one of its lines, or with one twice."""
        lines = data.split(b"\r\n")
        number = self.chance.randrange(len(lines))
        if self.chance.random() < 0.5:
            del lines[number]
        else:
            lines.insert(number, lines[number])
        return b"\r\n".join(lines)

    # -- the talk

    def run(self, steps: int) -> None:
        """A call with mistakes, and the rest after it."""
        self.alice.invite(sdp=self.body(self.alice))
        for _ in range(steps):
            self.step()
        self.advance(LONGEST_S)
        border = self.border
        left = {name: number for name, number in border.calls.leftovers().items() if number}
        assert left == {}, left
        assert border.relay.streams == {}
        assert border.calls.next_timer() is None
        names = [record.id for record in border.records]
        assert len(names) == len(set(names)), "two records of one call"

    def body(self, agent: Agent) -> str:
        """SDP, as a rule."""
        if self.chance.random() < 0.1:
            return ""
        direction = self.chance.choice(("sendrecv", "sendrecv", "sendonly", "inactive"))
        version = self.chance.randrange(1, 9)
        return audio(agent.address[0], self.chance.choice((4000, 4002)), direction, version=version)

    def step(self) -> None:
        """One of the two does the next thing, or time passes."""
        chance = self.chance
        dice = chance.random()
        if dice < 0.25:
            self.advance(chance.choice((0.05, 0.5, 2.0, 33.0, 100.0)))
            return
        agent = chance.choice((self.alice, self.bob))
        if agent.inbox:
            self.react(agent, agent.inbox.pop(0))
        elif dice < 0.5 and self.heard:
            self.receive(self.mutated(chance.choice(self.heard)), self.flow(agent.flow))
        elif dice < 0.8:
            self.ask(agent)
        elif dice < 0.9:
            self.alice.call_id = f"call-{chance.randrange(1000)}@alice"
            self.alice.invite(sdp=self.body(self.alice))

    def react(self, agent: Agent, message: Message) -> None:
        """What a phone does with a message."""
        chance = self.chance
        if isinstance(message, Response):
            if message.status == 200 and tellable(message) and message.cseq.method == "INVITE":
                if agent is self.alice:
                    self.answers.append(message)
                if chance.random() < 0.9:
                    agent.ack(message)
            return
        if not isinstance(message, Request) or message.method == "ACK" or not tellable(message):
            return
        if message.method == "INVITE":
            if message.to.tag is None:
                self.invites.append(message)
            tag = chance.choice((None, None, "fork1", "fork2"))
            if chance.random() < 0.5:
                agent.answer(
                    message,
                    chance.choice((100, 180, 183)),
                    tag=tag,
                    sdp=chance.choice(("", self.body(agent))),
                )
            status = 200 if chance.random() < 0.7 else chance.choice(STATUSES)
            agent.answer(message, status, tag=tag, sdp=self.body(agent) if status == 200 else "")
        elif chance.random() < 0.9:
            agent.answer(message, 200 if chance.random() < 0.9 else chance.choice(STATUSES), sdp="")

    def ask(self, agent: Agent) -> None:
        """A request inside the dialog."""
        known: list[Response | Request] = [*self.answers] if agent is self.alice else [*self.invites]
        if not known:
            return
        of = self.chance.choice(known[-2:])
        if not tellable(of) or not of.contacts:
            return
        method = self.chance.choice(("INVITE", "INVITE", "UPDATE", "INFO", "MESSAGE", "OPTIONS", "BYE"))
        body = self.body(agent) if method in ("INVITE", "UPDATE") else ""
        agent.inside(method, of, body=body)


def tellable(message: Message) -> bool:
    """Whether a phone of these tests can write a message about it: they write UTF-8 only."""
    return message.encode().decode("utf-8", "replace").find("\ufffd") < 0


def unreadable(data: bytes, flow: Flow) -> bool:
    """Whether no phone could read it: allowed for the refusal of what we could not read ourselves, and no more."""
    try:
        parse(data)
    except ParseError:
        assert data.startswith((b"SIP/2.0 4", b"SIP/2.0 5")), data
        return True
    return False


def exchanged(data: bytes, pattern: re.Pattern[bytes], text: str, chance: random.Random) -> bytes:
    """`data` with one match of `pattern`, any of them, replaced."""
    found = list(pattern.finditer(data))
    if not found:
        return data
    chosen = chance.choice(found)
    return data[: chosen.start()] + text.encode() + data[chosen.end() :]


def check(seed: int, steps: int = 40) -> None:
    """Raise AssertionError, or what should not have come out, if the invariant does not hold for `seed`."""
    Conversation(seed).run(steps)


def main(seconds: float, seed: int) -> None:
    """Go on for that long; the seed that breaks the invariant is printed."""
    begin = seed
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            check(seed)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        seed += 1
    print(f"{seed - begin} conversations, seeds {begin} to {seed - 1}")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
