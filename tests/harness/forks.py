"""Several phones of one user, and who calls them."""

from collections.abc import Sequence

from sbc.decisions import Decision
from sbc.phonebook import Phonebook
from sbc.routing import CallRequest, Refusal, Target
from sbc.users import Users
from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio

ELSEWHERE = 'SIP;cause=200;text="Call completed elsewhere"'


def to_phones(text: str) -> str:
    """A configuration whose public side calls phones."""
    return text.replace("{from: public, to: pbx}", "{from: public, to: phones}") + (
        "phones: {network: private, registrar: local, store: null, keepalive: off, users: {bob: {password: x}}}\n"
    )


class OnePage(Phonebook):
    """Everybody has these phones."""

    def __init__(self, border: Border, targets: Sequence[Target]) -> None:
        super().__init__(border.config, border.calls.phones.locations, Users("sip.private.example"), None)
        self.found = tuple(targets)

    def targets(
        self, request: CallRequest, user: str, now: float
    ) -> tuple[tuple[Target, ...], Decision, Refusal | None]:
        return self.found, Decision("routing", "phones", (), "of the test"), None


def ring(border: Border, targets: Sequence[Target]) -> None:
    """From now on calls go to these."""
    border.calls.phones.book = OnePage(border, targets)


def at(phone: Agent, group: int = 1, ring_s: float = 0.0) -> Target:
    """The target that a registration of this phone makes."""
    return Target(
        "phones",
        phone.flow.network,
        phone.transport,
        phone.address,
        "sip.private.example",
        "200",
        nat=True,
        flow=phone.flow,
        contact=f"sip:200@{phone.host};line={phone.address[1]}",
        group=group,
        ring_s=ring_s,
    )


class Forked:
    """Alice calls somebody who has several phones, each in the group that is given, in the order of the groups."""

    def __init__(self, *groups: int, ring_s: float = 0.0, changes: str = "") -> None:
        self.border = Border(changes=lambda text: to_phones(text) + changes)
        self.alice = self.border.agent("public", "203.0.113.77:5070")
        self.phones = [
            self.border.agent("private", f"10.0.0.3{number}:506{number}")
            for number, _ in enumerate(groups, 1)
        ]
        self.targets = [at(phone, group, ring_s) for phone, group in zip(self.phones, groups, strict=True)]
        ring(self.border, self.targets)

    def call(self, sdp: str | None = None) -> Request:
        return self.alice.invite(sdp=sdp)

    def ring(self, sdp: str | None = None) -> list[tuple[Agent, Request]]:
        """Alice calls; the phones of the first group, with the INVITE that each has got."""
        self.call(sdp)
        first = self.targets[0].group
        return [
            (phone, phone.expect("INVITE"))
            for phone, target in zip(self.phones, self.targets, strict=True)
            if target.group == first
        ]

    def media(self) -> tuple[object, object]:
        """Where the one stream leads: towards the caller, towards the callee."""
        (spec,) = self.border.relay.streams.values()
        ends = {"a": spec.a, "b": spec.b}
        ends.update({side: end for number, side, end in self.border.relay.changes if number == spec.id})
        return ends["a"].remote, ends["b"].remote

    def rules(self) -> list[str]:
        (record,) = self.border.records
        return [tried.rule for tried in record.targets]

    def confirm(self, status: int = 200) -> Response:
        """Alice gets the final answer and acknowledges it."""
        answer = self.alice.expect_answer(status, "INVITE")
        if status == 200:
            self.alice.ack(answer)
        return answer

    def hang_up(self, answer: Response, winner: Agent) -> None:
        self.alice.inside("BYE", answer)
        winner.answer(winner.expect("BYE"), 200)
        self.alice.expect_answer(200, "BYE")
        for phone in self.phones:
            phone.nothing()
        self.alice.nothing()
        self.border.at_rest()


def answered(phone: Agent, invite: Request, **changes: str) -> None:
    phone.answer(invite, 200, "OK", sdp=audio(phone.address[0], 4002), **changes)


def cancelled(phone: Agent, invite: Request) -> Request:
    """The phone is told to stop ringing, and does."""
    cancel = phone.expect("CANCEL")
    phone.answer(cancel, 200)
    phone.answer(invite, 487)
    phone.expect("ACK")
    return cancel
