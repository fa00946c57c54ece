"""Which of our listeners reaches a remote."""

from signaling.flow import Flow, Listener, flow_from

OURS = ("203.0.113.10", 5060)
THEIRS = ("198.51.100.7", 5060)
LISTENERS = [
    Listener(network, transport, local, local)
    for network, transport, local in (
        ("private", "udp", ("10.0.0.1", 5060)),
        ("public", "udp", OURS),
        ("public", "udp", (OURS[0], 5070)),
        ("public", "tcp", ("2001:db8::1", 5060)),
    )
]


def test_the_first_of_the_network_transport_and_family_is_taken() -> None:
    assert flow_from(LISTENERS, "public", "udp", THEIRS) == Flow("public", "udp", OURS, THEIRS)
    six = flow_from(LISTENERS, "public", "tcp", ("2001:db8::7", 5060))
    assert six is not None and six.local == ("2001:db8::1", 5060)


def test_there_may_be_none() -> None:
    assert flow_from(LISTENERS, "public", "tcp", THEIRS) is None
    assert flow_from(LISTENERS, "private", "tcp", ("10.0.0.9", 5060)) is None
