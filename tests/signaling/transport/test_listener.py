"""Which listener reaches a remote."""

from signaling.flow import Flow
from signaling.transport.listener import choose_listener, flow_from
from tests.signaling.transport.node import listener


def test_choice_of_the_listener_is_free_of_io() -> None:
    listeners = [
        listener("udp", "10.0.0.1", 5060, "private"),
        listener("udp", "203.0.113.10", 5060),
        listener("udp", "203.0.113.10", 5070),
        listener("tcp", "2001:db8::1", 5060),
    ]
    chosen = choose_listener(listeners, "public", "udp", ("198.51.100.7", 5060))
    assert chosen is listeners[1]
    assert flow_from(chosen, ("198.51.100.7", 5060)) == Flow(
        "public", "udp", ("203.0.113.10", 5060), ("198.51.100.7", 5060)
    )
    assert choose_listener(listeners, "public", "tcp", ("2001:db8::7", 5060)) is listeners[3]
    assert choose_listener(listeners, "public", "tcp", ("198.51.100.7", 5060)) is None
    assert choose_listener(listeners, "private", "tcp", ("10.0.0.9", 5060)) is None
