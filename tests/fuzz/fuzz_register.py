"""Fuzz target of registrations: phones, their registrar and strangers that send what they like.

Invariant: whatever comes, nothing is raised; no table passes its bound or loses its place in another; what is stored
can be read again; and nothing that a phone wrote about itself reaches the registrar.

`python -m tests.fuzz.fuzz_register SECONDS [SEED]` runs on its own and prints the seed that broke it.
"""

import random
import sys
import time

from sbc.binding import binding_of, row_of
from signaling.digest import Account, answer, parse_challenges
from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.parser import parse
from tests.fuzz.fuzz_sip import PIECES
from tests.harness.border import Border

CONFIG = """
networks:
  public: {address: 203.0.113.10, listen: [udp:5060, tcp:5060], media_ports: 20000-20199, domain: sip.example.com,
    nat: far-end}
  private: {address: 10.0.0.1, listen: [udp:5060], media_ports: 30000-30199, domain: pbx.internal}
trunks: {pbx: {network: private, servers: ["sip:10.0.0.20", "sip:10.0.0.21"]}}
phones: {network: public, registrar: REGISTRAR, store: null, max_contacts: 3, registers_per_s: 50}
routes: [{from: phones, to: pbx}, {from: pbx, to: phones}]
limits: {max_calls: 50}
"""
USERS = ", users: {alice: {password: a}, bob: {password: b}}, digest: [MD5, SHA-256], calls: challenge}"
SECRETS = (b"192.168.", b"phone-call", b"Home/1.0")
CONTACTS = (
    "<sip:{user}@192.168.1.5:{port}>", "<sip:{user}@192.168.1.5:{port};ob>;q=0.5;expires=100", "*", "",
    '<sip:{user}@192.168.1.5>;+sip.instance="<urn:uuid:{port}>";reg-id=1', "<sip:{user}@192.168.1.6>, <sip:x@[::1]>",
    '<sip:{user}@192.168.1.5>;+sip.instance="<urn:uuid:{port}>";reg-id=2;expires=0', "<sip:{user}@>", "<tel:+1>",
    '"x, y" <sip:{user}@192.168.1.7>;expires=99999999999',
)  # fmt: skip
FIELDS = (
    "Supported: outbound, gruu, path", "Require: outbound", "Require: teleport", "Expires: 0", "Expires: 600",
    "Expires: 5", "Expires: x", "Authorization: Digest", 'Authorization: Digest username="alice", realm="r", nonce="n"',
    "Geolocation: <cid:x>",
)  # fmt: skip


class Storm:
    """One run: a border, and those who talk to it."""

    def __init__(self, seed: int, local: bool) -> None:
        self.chance = random.Random(seed)
        registrar = CONFIG.replace("REGISTRAR", "local" if local else "pbx")
        if local:
            registrar = registrar.replace("registers_per_s: 50}", "registers_per_s: 50" + USERS)
        self.border = Border(registrar)
        self.border.agent("public", "198.51.100.1:5060")
        self.number = 0
        # Whether nothing of a mutation can have crossed as a user name.
        self.clean = True

    def step(self) -> None:
        """One thing happens."""
        chance, border = self.chance, self.border
        border.sent.clear()
        match chance.randrange(6):
            case 0 | 1 | 2:
                self.register()
            case 3:
                self.send(
                    self.mutate(self.request("INVITE", chance.choice(("200", "alice", self.token())))),
                    inside=chance.random() < 0.4,
                )
            case 4:
                border.advance(chance.choice((0.1, 1, 9, 40, 700)))
            case _:
                flow = self.flow()
                border.calls.transport_failed(flow, border.now)
        self.serve()
        self.check()

    def register(self) -> None:
        text = self.request("REGISTER", "")
        chance = self.chance
        self.clean = chance.random() < 0.5
        self.send(text if self.clean else self.mutate(text))

    def request(self, method: str, user: str) -> bytes:
        """A request of a phone."""
        chance = self.chance
        self.number += 1
        name, port = chance.choice(("alice", "bob", "carol")), chance.randrange(40000, 40006)
        contact = chance.choice(CONTACTS).format(user=name, port=port)
        target = f"{user}@sip.example.com" if user else "sip.example.com"
        to = target if user else f"{name}@sip.example.com"
        lines = [
            f"{method} sip:{target} SIP/2.0",
            f"Via: SIP/2.0/UDP 192.168.1.5:{port};branch=z9hG4bK{self.number};rport",
            "Max-Forwards: 70",
            f"From: <sip:{name}@sip.example.com>;tag=t{self.number}",
            f"To: <sip:{to}>",
            f"Call-ID: phone-call-{name}-{port}",
            f"CSeq: {chance.choice((self.number, 1, 7))} {method}",
            "User-Agent: Home/1.0",
        ]
        lines += [f"Contact: {contact}"] if contact else []
        lines += chance.sample(FIELDS, chance.randrange(3))
        return ("\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n").encode()

    def token(self) -> str:
        bindings = self.border.calls.phones.locations.all()
        return self.chance.choice(bindings).token if bindings else "nobody"

    def mutate(self, data: bytes) -> bytes:
        chance, text = self.chance, bytearray(data)
        self.clean = False
        for _ in range(chance.choice((0, 1, 1, 3))):
            at = chance.randrange(len(text) + 1)
            if chance.random() < 0.5:
                text[at:at] = chance.choice(PIECES) * chance.choice((1, 1, 1, 50))
            else:
                del text[at : at + chance.choice((1, 5, 60))]
        return bytes(text[:60000])

    def flow(self) -> Flow:
        remote = (f"198.51.100.{self.chance.randrange(1, 4)}", self.chance.randrange(40000, 40006))
        transport = self.chance.choice(("udp", "udp", "tcp"))
        return Flow(
            "public", transport, ("203.0.113.10", 5060), remote, 0 if transport == "udp" else remote[1] % 7
        )

    def send(self, data: bytes, inside: bool = False) -> None:
        border = self.border
        flow = Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.20", 5060)) if inside else self.flow()
        border.calls.receive(data, flow, border.now)

    def serve(self) -> None:
        """What the border sent is answered: challenges by phones, REGISTER by the registrar."""
        border, chance = self.border, self.chance
        for _ in range(4):
            sent, border.sent[:] = list(border.sent), []
            for data, flow in sent:
                if not data.strip():
                    continue  # a keep-alive
                message = parse(data)
                if flow.network == "private" and self.clean and isinstance(message, Request):
                    for secret in SECRETS:
                        assert secret not in data, data
                if isinstance(message, Response):
                    self.answered(message, flow)
                elif message.method == "REGISTER" and chance.random() < 0.9:
                    border.calls.receive(
                        self.mutate(self.registrar(message))
                        if chance.random() < 0.2
                        else self.registrar(message),
                        flow,
                        border.now,
                    )

    def answered(self, response: Response, flow: Flow) -> None:
        if response.status in (401, 407) and self.chance.random() < 0.7:
            challenges = parse_challenges(response)
            if challenges and response.method == "REGISTER":
                name, value = answer(
                    challenges[0], Account("alice", "a"), "REGISTER", "sip:sip.example.com", 1, "cn"
                )
                text = (
                    self.request("REGISTER", "").decode().replace("\r\nCSeq", f"\r\n{name}: {value}\r\nCSeq")
                )
                self.border.calls.receive(text.encode(), flow, self.border.now)

    def registrar(self, request: Request) -> bytes:
        status = self.chance.choice((200, 200, 200, 401, 403, 423, 404, 500, 503, 302, 100))
        lines = [f"SIP/2.0 {status} x"]
        for name in ("Via", "From", "To", "Call-ID", "CSeq"):
            lines += [f"{name}: {value}" for value in request.get_all(name)]
        if status == 200:
            lines += [f"Contact: {value}" for value in request.get_all("Contact")]
            lines += ["Service-Route: <sip:10.0.0.20;lr>"]
        if status == 401:
            lines.append('WWW-Authenticate: Digest realm="pbx", nonce="n"')
        if status == 423:
            lines.append(self.chance.choice(("Min-Expires: 900", "Min-Expires: x")))
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def check(self) -> None:
        """The invariant."""
        border = self.border
        locations = border.calls.phones.locations
        bindings = locations.all()
        assert len(bindings) == len(locations)
        for user in {one.user for one in bindings}:
            assert locations.count(user) <= 3
        for one in bindings:
            assert one in locations.by_token(one.token)
            assert one in locations._by_flow[one.flow_key]
            again = binding_of(row_of(one, border.now, 1e9), border.now, 1e9)
            assert again is not None and again.contact == one.contact and again.identity == one.identity
            assert one.expires_at > border.now - 1
        relay = None if border.calls.phones.registrations is None else border.calls.phones.registrations.relay
        if relay is not None:
            assert len(relay) <= len(border.calls.transactions)


def run(seed: int, steps: int, local: bool) -> None:
    """One storm."""
    storm = Storm(seed, local)
    for _ in range(steps):
        storm.step()
    storm.border.advance(800)
    storm.border.calls.hang_up(storm.border.now)
    storm.border.advance(100)
    left = {name: number for name, number in storm.border.calls.leftovers().items() if number}
    assert left == {}, left
    assert len(storm.border.calls.phones.locations._wakeups) < 500


def main() -> None:
    """Until the time is up."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for local in (False, True):
            try:
                run(seed, 150, local)
            except BaseException:
                print(f"seed {seed} local={local}", file=sys.stderr)
                raise
        seed += 1
    print(f"{seed} seeds")


if __name__ == "__main__":
    main()
