"""A host with several addresses in one network: whatever the border sends there comes from the configured one."""

import pytest

from tests.lab.border import configuration, server
from tests.lab.capture import read_pcap
from tests.lab.lab import OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES

pytestmark = pytest.mark.lab

FIRST = "203.0.113.9"
"""Of the host's addresses the one that the kernel chooses for who does not say."""


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("origin", [PUBLIC, PRIVATE])
def test_everything_comes_from_the_configured_address(lab: Lab, origin: str, transport: str) -> None:
    device, configured = f"to-{PUBLIC}", SIDES[PUBLIC].border
    for change, address in (("del", configured), ("add", FIRST), ("add", configured)):
        lab.namespaces.run(SBC, "ip", "address", change, f"{address}/24", "dev", device)
    assert f"src {FIRST}" in lab.namespaces.run(SBC, "ip", "route", "get", lab.host(PUBLIC))
    target = OTHER[origin]
    servers = [server(target, transport)]
    lab.start(
        configuration(
            lab.namespaces,
            to_private=servers if target == PRIVATE else None,
            to_public=servers if target == PUBLIC else None,
        )
    )
    callee = lab.callee(target, transport=transport, audio=True)
    caller = lab.caller(origin, transport=transport, audio=True, hold_ms=1200)
    caller.done()
    callee.done()
    lab.finish()
    lab.assert_heard()
    sources = {packet.source[0] for packet in read_pcap(lab.directory / f"{PUBLIC}.pcap")}
    assert configured in sources
    assert FIRST not in sources
