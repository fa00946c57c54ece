"""UDP: what a glance is enough for never reaches `receive`; the rest does, in its order."""

import asyncio
import socket

from signaling.flow import Flow, Listener
from signaling.transport.limits import TransportLimits
from signaling.transport.udp import Glance
from signaling.transport.wires import Wires
from tests.signaling.test_transport import on_loop


@on_loop
async def test_a_glance_comes_first_and_the_end_of_a_row_is_told_once() -> None:
    seen: list[tuple[str, bytes]] = []
    done = asyncio.Event()

    def answers(data: bytes, flow: Flow, age_s: float) -> bool:
        assert flow.network == "public" and 0 <= age_s < 30
        seen.append(("glance", data))
        if b"enough" in data:
            wires.send(b"answer", flow)
            return True
        return False

    def receive(data: bytes, flow: Flow, age_s: float) -> None:
        seen.append(("receive", data))

    def after() -> None:
        seen.append(("after", b""))
        done.set()

    wires = Wires(
        [Listener("public", "udp", ("127.0.0.1", 0), ("sbc.example", 5060))],
        receive,
        lambda flow: None,
        TransportLimits(),
        Glance(answers, after),
    )
    wires.open()
    (bound,) = wires.bound
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(30.0)
        # All of them wait in one row when the loop looks for the first time.
        for data in (b"OPTIONS enough", b"INVITE enough", b"REGISTER more", b"REGISTER enough"):
            peer.sendto(data, bound.local)
        await asyncio.wait_for(done.wait(), 30.0)
        back = wires.flow_to("public", "udp", peer.getsockname())
        assert back is not None
        wires.send(b"last", back)
        got = [peer.recv(100) for _ in range(3)]
    wires.close()
    assert seen == [
        ("glance", b"OPTIONS enough"),
        ("receive", b"INVITE enough"),
        ("glance", b"REGISTER more"),
        ("receive", b"REGISTER more"),
        ("glance", b"REGISTER enough"),
        ("after", b""),
    ]
    assert got == [b"answer", b"answer", b"last"]
