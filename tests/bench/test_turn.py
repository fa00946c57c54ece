"""The bench of the TURN gateway measures what it says: media crosses, both ways, and costs something."""

from tests.bench.bench_turn import gateway_packet_us


def test_media_crosses_the_gateway() -> None:
    cost, core, share = gateway_packet_us(3, 0.5)
    assert share > 0.9 and cost > 1.0 and 0.0 < core < 1.0
