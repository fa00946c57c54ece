"""Phones behind NAT, a registrar behind us, and configurations for them."""

from signaling.digest import Account, answer, parse_challenges
from signaling.headers import parse_name_addr
from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio

RELAY = """
networks:
  public:
    address: 203.0.113.10
    listen: [udp:5060, tcp:5060]
    media_ports: 20000-21999
    domain: sip.example.com
    nat: far-end
  private:
    address: 10.0.0.1
    listen: [udp:5060, tcp:5060]
    media_ports: 30000-31999
    domain: pbx.internal
trunks:
  pbx: {network: private, servers: ["sip:10.0.0.20"]}
  carrier: {network: public, servers: ["sip:198.51.100.7"]}
phones: {network: public, registrar: pbx, store: null, keepalive: off}
emergency: {numbers: ["112"], priority: [esnet.0]}
routes:
  - {from: phones, to: pbx}
  - {from: pbx, to: phones, when: registered}
  - {from: pbx, to: carrier}
  - {from: public, match: "^900$", to: pbx}
"""
KEPT = RELAY.replace("keepalive: off", "keepalive: auto")
ALWAYS = RELAY.replace(", when: registered", "").replace("  - {from: pbx, to: carrier}\n", "")
LOCAL = RELAY.replace(
    "registrar: pbx,",
    "registrar: local, users: {alice: {password: a-secret, numbers: ['+15551234']},"
    " bob: {password: b-secret}},",
).replace("{from: phones, to: pbx}", "{from: phones, to: phones, when: registered}")


class Phone:
    """A phone in a home: it writes its private address and comes from that of its router."""

    def __init__(
        self, border: Border, user: str, port: int, transport: str = "udp", host: str = "192.0.2.77"
    ) -> None:
        self.border = border
        self.user = user
        self.agent = border.agent("public", f"{host}:{port}", transport)
        self.contact = f"sip:{user}@192.168.1.{port % 250}:5060"
        self.agent.call_id = self.register_id = f"register-{user}-{port}"
        self.aor = f"sip:{user}@sip.example.com"
        self.inside = "192.168.1.5:5060"

    def register(self, expires: int = 600, fields: str = "", contact: str | None = None) -> None:
        self.agent.cseq += 1
        number = self.agent.cseq
        lines = [
            "REGISTER sip:sip.example.com SIP/2.0",
            f"Via: SIP/2.0/{self.agent.transport.upper()} {self.inside};branch={self.agent.branch()};rport",
            "Max-Forwards: 70",
            f"From: <{self.aor}>;tag=r{number}",
            f"To: <{self.aor}>",
            f"Call-ID: {self.register_id}",
            f"CSeq: {number} REGISTER",
            f"Contact: {contact or f'<{self.contact}>'}",
            f"Expires: {expires}",
            "User-Agent: Home/1.0",
        ]
        if fields:
            lines.append(fields)
        self.last = "\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n"
        self.agent.raw(self.last)

    def authorized(self, password: str, expires: int = 600, fields: str = "") -> Response:
        self.register(expires)
        challenge = parse_challenges(self.agent.expect_answer(401))[0]
        name, value = answer(
            challenge, Account(self.user, password), "REGISTER", "sip:sip.example.com", 1, "cn"
        )
        self.register(expires, f"{name}: {value}" + (f"\r\n{fields}" if fields else ""))
        return self.agent.expect_answer(200)

    def invite(self, to: str, sender: str | None = None, fields: str = "") -> Request:
        return self.agent.request(
            "INVITE",
            uri=f"sip:{to}@sip.example.com",
            from_header=f"<{sender or self.aor}>;tag=c{self.agent.cseq}",
            body=audio("192.168.1.5"),
            fields=f"{fields}\r\nAllow: INVITE, ACK, CANCEL, BYE".strip(),
        )


class Registrar:
    """A registrar that keeps what it is told, and lets everybody in."""

    def __init__(self, border: Border) -> None:
        self.agent = border.agent("private", "10.0.0.20:5060")
        self.contacts: dict[str, str] = {}

    def serve(self, expires: int | None = None) -> Request:
        request = self.agent.expect("REGISTER")
        lines = []
        for value in request.values("Contact"):
            contact = parse_name_addr(value)
            left = contact.param("expires") if expires is None else str(expires)
            if left == "0":
                self.contacts.pop(request.to.uri_text, None)
            else:
                self.contacts[request.to.uri_text] = contact.uri_text
                lines.append(f"Contact: <{contact.uri_text}>;expires={left}")
        self.agent.raw(
            "\r\n".join(
                [
                    "SIP/2.0 200 OK",
                    *(f"Via: {value}" for value in request.get_all("Via")),
                    f"From: {request.get('From')}",
                    f"To: {request.get('To')};tag=reg",
                    f"Call-ID: {request.call_id}",
                    f"CSeq: {request.get('CSeq')}",
                    *lines,
                    "Content-Length: 0",
                ]
            )
            + "\r\n\r\n"
        )
        return request

    def call(self, user: str, fields: str = "") -> Request:
        contact = self.contacts[f"sip:{user}@pbx.internal"]
        return self.agent.request("INVITE", uri=contact, body=audio("10.0.0.20"), fields=fields)


def home(config: str = RELAY) -> tuple[Border, Registrar, Phone]:
    border = Border(config)
    registrar = Registrar(border)
    phone = Phone(border, "alice", 40001)
    phone.register()
    registrar.serve()
    phone.agent.expect_answer(200)
    return border, registrar, phone


def talked(border: Border, caller: Agent, callee: Agent) -> None:
    """What rings is answered, and hung up by the caller."""
    invite = callee.expect("INVITE")
    callee.answer(invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    callee.expect("ACK")
    done = caller.expect_answer(200)
    caller.ack(done)
    caller.inside("BYE", done)
    bye = callee.expect("BYE")
    callee.answer(bye, 200, "OK")
    caller.expect_answer(200, "BYE")


def rest(border: Border) -> None:
    """Nothing is left but the registrations."""
    border.advance(70)
    left = {name: number for name, number in border.calls.leftovers().items() if number}
    assert left == {}, left


def local() -> tuple[Border, Phone, Phone]:
    border = Border(LOCAL)
    alice, bob = Phone(border, "alice", 40001), Phone(border, "bob", 40002)
    alice.authorized("a-secret")
    bob.authorized("b-secret")
    return border, alice, bob
