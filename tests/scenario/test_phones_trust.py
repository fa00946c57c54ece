"""What phones, registrars and strangers may not do to others: over the in-memory wire."""

from dataclasses import replace

import pytest

from signaling.errors import ParseError
from tests.harness.border import Border
from tests.scenario.test_phones import RELAY, Phone, Registrar, home, rest

BAD_ROUTES = ("<sip:1.1.1*>", "<tel:+15551234>", "<sips:10.0.0.20;lr>", "<sip:10.0.0.20>", "<<;lr>")


@pytest.mark.parametrize("route", BAD_ROUTES)
def test_a_service_route_that_nobody_can_follow_is_none(route: str) -> None:
    border = Border(RELAY)
    registrar, phone = Registrar(border), Phone(border, "alice", 40001)
    phone.register()
    asked = registrar.agent.expect("REGISTER")
    contact = f"Contact: {asked.get('Contact')}\r\n"
    registrar.agent.answer(asked, 200, "OK", fields=f"{contact}Service-Route: {route}, <sip:sr@10.0.0.20;lr>")
    phone.agent.expect_answer(200)
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.upstream is not None and binding.upstream.service_route == ("<sip:sr@10.0.0.20;lr>",)


def test_a_call_that_cannot_be_addressed_leaves_nothing() -> None:
    """One that was stored before it was looked at: every call was kept for ever, with its ports."""
    border, registrar, phone = home()
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.upstream is not None
    binding.upstream = replace(binding.upstream, service_route=("<sip:1.1.1*>",))
    phone.invite("200")
    phone.agent.expect_answer(500)
    registrar.agent.nothing()
    rest(border)
    assert [one.final_status for one in border.records] == [500]


def test_a_call_that_meets_something_malformed_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    border, _registrar, phone = home()

    def stumble(*_: object) -> None:
        raise ParseError("cannot be read", "malformed")

    monkeypatch.setattr(border.calls.phones, "routed", stumble)
    phone.invite("200")
    phone.agent.expect_answer(400)
    phone.agent.nothing()
    rest(border)
    assert [one.final_rule for one in border.records] == ["malformed"]
