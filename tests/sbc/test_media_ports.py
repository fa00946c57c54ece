"""Ports of calls, those that restored calls bring along included."""

import pytest

from media.ports import PoolExhausted, PortPool
from media.relay import PortPair
from sbc.media_ports import MediaPorts


def ports() -> MediaPorts:
    return MediaPorts(PortPool({"net": ("192.0.2.1", 20000, 20005)}, quarantine_s=0), lambda: 0.0)


def test_a_claimed_pair_is_not_handed_out() -> None:
    subject = ports()
    claimed = PortPair("net", "192.0.2.1", 20002, 20003)
    subject.claim(claimed)
    assert subject.in_use() == 1
    taken = [subject.take("net"), subject.take("net")]
    assert claimed not in taken
    assert subject.in_use() == 3
    with pytest.raises(PoolExhausted):
        subject.take("net")
    subject.free((claimed, *taken))
    assert subject.in_use() == 0
    assert len({subject.take("net") for _ in range(3)}) == 3


def test_a_claimed_pair_that_the_pool_never_came_up_with() -> None:
    subject = ports()
    claimed = PortPair("net", "192.0.2.1", 20002, 20003)
    subject.claim(claimed)
    subject.free((claimed,))
    assert subject.in_use() == 0
    assert len({subject.take("net") for _ in range(3)}) == 3


def test_a_pair_is_given_back_once() -> None:
    subject = ports()
    pair = subject.take("net")
    subject.free((pair,))
    with pytest.raises(ValueError, match="not in use"):
        subject.free((pair,))
