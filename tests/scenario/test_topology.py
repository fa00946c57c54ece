"""Nothing of one side is in the bytes that the other side gets (design.md s.4.1): generated calls with canaries.

Every value that a network could be known by is a canary: a string that occurs nowhere else. What may cross (the
numbers dialled, display names, a text message) has none.
"""

import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio

# Header fields that a peer may send; {c} is where its canary goes.
FIELDS = (
    "User-Agent: {c}-agent/1.0",
    "Organization: {c} Ltd",
    "X-Internal: {c}",
    'P-Asserted-Identity: "Bob" <sip:200@{c}.example>',
    "P-Asserted-Identity: <tel:+15551234>",
    "P-Asserted-Identity: <sip:100@{c}.example>, <tel:100>",
    "P-Asserted-Identity: <tel:100;phone-context={c}.example>",
    "Remote-Party-ID: <tel:200>;party=called;x={c}",
    "Diversion: <tel:200>;reason=no-answer;x={c}",
    "History-Info: <tel:200>;index=1;x={c}",
    "Refer-To: <tel:200>",
    "Referred-By: <tel:100;phone-context={c}.example>",
    "P-Preferred-Identity: <sip:200@{c}.example>",
    "Privacy: none",
    "Diversion: <sip:300@{c}.example>;reason=no-answer;counter=1",
    "History-Info: <sip:200@{c}.example?Reason=SIP%3Bcause%3D302%3Btext%3D%22{c}%22>;index=1",
    "Referred-By: <sip:boss@{c}.example>",
    "Call-Info: <http://{c}.example/pic.png>;purpose=icon",
    "Alert-Info: <http://{c}.example/ring.wav>",
    "Alert-Info: <urn:alert:source:internal>",
    'Warning: 301 {c}.example "not at {c}.example"',
    'Reason: Q.850;cause=16;text="via {c}.example"',
    "Reply-To: <sip:200@{c}.example>",
    "P-Charging-Vector: icid-value={c};orig-ioi={c}.example",
    "P-Access-Network-Info: IEEE-802.11;node={c}",
    "Geolocation: <sip:200@{c}.example>",
    "Record-Route: <sip:{c}.example;lr>",
    "Supported: timer, {c}",
    "Allow-Events: {c}",
    "Subject: lunch",
    "Subject: lunch at gw7.{c}.example and http://wiki.{c}.example/x\r\nPath: <sip:edge.{c}.example;lr>",
    'P-Asserted-Identity: "Reception at gw7.{c}.example" <sip:alice.srv9.{c}.example@{c}.example>'
    "\r\nPath: <sip:edge.{c}.example;lr>",
    'Diversion: "{c}.example" <sip:gw7.{c}.example@h>;reason=no-answer\r\nPath: <sip:edge.{c}.example;lr>',
    "Priority: urgent",
    "Date: Sat, 13 Nov 2010 23:29:00 GMT",
    "In-Reply-To: {c}@host",
    "Error-Info: <sip:{c}@host.example>",
    "Identity: {c}",
    "P-Visited-Network-ID: {c}",
    "Path: <sip:{c}.example;lr>",
)
ATTRIBUTES = (
    "i={c}",
    "u=http://{c}.example",
    "e={c}@example.com",
    "a=tool:{c}",
    "a=ssrc:1234 cname:{c}",
    "a=x-{c}",
    "a=rtcp:4001 IN IP4 192.0.2.66",
    "a=candidate:1 1 UDP 1 192.0.2.66 4000 typ host",
    "a=ice-ufrag:{c}",
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{c}",
    "a=label:{c}",
    "a=fmtp:0 host={c}",
    "a=fmtp:0 server=gw7.{c}.example",
    "a=fmtp:0 {c}=1; mode={c}",
    "a=fmtp:0 annexb=no; {c}",
    "a=rtcp-fb:0 {c}",
    "a=rtcp-fb:* nack {c}",
    "a=rtcp-xr:{c}",
    "a=silenceSupp:on {c} - - -",
    "a=rtpmap:101 gw.{c}/8000",
    "a=rtpmap:101 {c}-gw7/8000",
)
CANARY = {"public": "canarypub", "private": "canarypriv"}


def fields_of(network: str, chosen: list[str]) -> str:
    return "\r\n".join(field.replace("{c}", CANARY[network]) for field in chosen)


def body_of(network: str, host: str, chosen: list[str], direction: str = "sendrecv", version: int = 1) -> str:
    text = audio(host, direction=direction, version=version).replace("o=phone", f"o={CANARY[network]}")
    session = [line for line in chosen if not line.startswith("a=")]
    lines = "".join(line.replace("{c}", CANARY[network]) + "\r\n" for line in session)
    media = "".join(line.replace("{c}", CANARY[network]) + "\r\n" for line in chosen if line.startswith("a="))
    return text.replace("s=phone call\r\n", f"s={CANARY[network]} call\r\n{lines}") + media


PICK = st.lists(st.sampled_from(FIELDS), max_size=8, unique=True)
SDP = st.lists(st.sampled_from(ATTRIBUTES), max_size=4, unique=True)
STEP = st.sampled_from(["hold", "hold-b", "update", "info", "message", "inform-b", "wait"])


class Story:
    """One generated call: what each side sends is drawn, what each side gets is collected."""

    def __init__(self, data: Any, upward: bool) -> None:
        self.data = data
        self.border = Border()
        public = self.border.agent("public", "198.51.100.7:5060" if upward else "203.0.113.77:5070")
        private = self.border.agent("private", "10.0.0.20:5060")
        self.a, self.b = (private, public) if upward else (public, private)
        self.version = {"public": 1, "private": 1}

    def draw(self, agent: Agent) -> str:
        return fields_of(agent.flow.network, self.data.draw(PICK))

    def sdp(self, agent: Agent, direction: str = "sendrecv") -> str:
        network = agent.flow.network
        self.version[network] += 1
        return body_of(network, agent.address[0], self.data.draw(SDP), direction, self.version[network])

    def dial(self) -> Request:
        """The INVITE: numbers are dialled and callers named by SIP or by tel URIs."""
        a = self.a
        domain = f"{CANARY[a.flow.network]}.example"
        uri = self.data.draw(st.sampled_from([None, "tel:200", f"sip:200@{domain}"]))
        to = self.data.draw(st.sampled_from([None, "<tel:200>", f"<sip:200@{domain}>"]))
        who = self.data.draw(st.sampled_from([f"<sip:100@{domain}>", "<tel:100>", "<sip:100@sbc>"]))
        fields = "\r\n".join(["Allow: INVITE, ACK, CANCEL, BYE, UPDATE, INFO", self.draw(a)])
        return a.request(
            "INVITE", uri=uri, to_header=to, from_header=f"{who};tag={a.tag}", fields=fields, body=self.sdp(a)
        )

    def run(self, outcome: str, steps: list[str]) -> None:
        a, b = self.a, self.b
        invite = self.dial()
        got = b.expect("INVITE")
        assert got.uri.startswith("sip:200@")
        assert "sip:200@" in (got.get("To") or "")
        assert re.search("<(?:tel:100>|sip:100@)", got.get("From") or "")
        if outcome == "cancel":
            b.answer(got, 180, fields=self.draw(b))
            a.cancel(invite)
            b.answer(got, 487, f"{CANARY[b.flow.network]} gone", fields=self.draw(b))
            return
        if outcome.startswith("refuse"):
            status = int(outcome[6:])
            contact = f"\r\nContact: <sip:400@{CANARY[b.flow.network]}.example>" if status == 302 else ""
            b.answer(got, status, f"{CANARY[b.flow.network]} says no", fields=self.draw(b) + contact)
            return
        b.answer(got, 183, f"{CANARY[b.flow.network]} rings", sdp=self.sdp(b), fields=self.draw(b))
        b.answer(got, 200, f"{CANARY[b.flow.network]} answers", sdp=self.sdp(b), fields=self.draw(b))
        a.expect_answer(183)
        answer = a.expect_answer(200)
        a.ack(answer)
        b.expect("ACK")
        for step in steps:
            self.step(step, answer, got)
        a.inside("BYE", answer, fields=self.draw(a))
        b.answer(b.expect("BYE"), 200, fields=self.draw(b))

    def step(self, step: str, answer: Response, invite: Request) -> None:
        a, b = self.a, self.b
        match step:
            case "hold" | "hold-b":
                one, other, of = (a, b, answer) if step == "hold" else (b, a, invite)
                one.inside("INVITE", of, body=self.sdp(one, "sendonly"), fields=self.draw(one))
                got = other.expect("INVITE")
                other.answer(got, 200, sdp=self.sdp(other, "recvonly"), fields=self.draw(other))
                other.expect("ACK")
                one.ack(one.expect_answer(200))
            case "update":
                a.inside("UPDATE", answer, body=self.sdp(a), fields=self.draw(a))
                b.answer(b.expect("UPDATE"), 200, sdp=self.sdp(b), fields=self.draw(b))
                a.expect_answer(200)
            case "info" | "message":
                kind = ("INFO", "application/dtmf-relay", "Signal=1\r\n")
                method, content_type, body = (
                    kind
                    if step == "info"
                    else ("MESSAGE", "text/plain", f"hi, see http://wiki.{CANARY[a.flow.network]}.example/x")
                )
                known = f"Path: <sip:edge.{CANARY[a.flow.network]}.example;lr>\r\n"
                a.inside(method, answer, body=body, content_type=content_type, fields=known + self.draw(a))
                b.answer(b.expect(method), 200, fields=self.draw(b))
                a.expect_answer(200)
            case "inform-b":
                relay = "application/dtmf-relay"
                b.inside("INFO", invite, body="Signal=1\r\n", content_type=relay, fields=self.draw(b))
                a.answer(a.expect("INFO"), 415, f"{CANARY[a.flow.network]} no", fields=self.draw(a))
                b.expect_answer(415)
            case "wait":
                self.border.advance(1)


def secrets_of(network: str, border: Border, agents: tuple[Agent, Agent]) -> list[str]:
    """What must not be seen outside `network`: the canary, addresses, tags, Call-IDs, branches, agents."""
    own = next(agent for agent in agents if agent.flow.network == network)
    found = [CANARY[network], own.address[0], own.tag, "Scripted", "192.0.2.66"]
    found.append("10.0.0." if network == "private" else "203.0.113.")
    for data, flow in border.sent:
        if flow.network == network:
            text = data.decode("utf-8", "surrogateescape")
            found += re.findall(r"branch=(z9hG4bK[^;\s]+)", text)
            found += re.findall(r"^Call-ID: (\S+)", text, re.MULTILINE)
            found += re.findall(r";tag=([^;\s>]+)", text)
    return found


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    st.data(),
    st.booleans(),
    st.sampled_from(
        ["answer", "answer", "answer", "cancel", "refuse486", "refuse302", "refuse503", "refuse401"]
    ),
    st.lists(STEP, max_size=4),
)
def test_nothing_of_one_side_reaches_the_other(
    data: Any, upward: bool, outcome: str, steps: list[str]
) -> None:
    story = Story(data, upward)
    story.run(outcome, steps)
    border = story.border
    for network, other in (("public", "private"), ("private", "public")):
        secrets = secrets_of(network, border, (story.a, story.b))
        for sent, flow in border.sent:
            if flow.network == other:
                text = sent.decode("utf-8", "surrogateescape")
                leaked = [secret for secret in secrets if secret in text]
                assert leaked == [], text
    assert all(record.leaks == 0 for record in border.records), "the guard cries wolf"
    border.at_rest()
