"""What a reload changes, and what it cannot change."""

import pytest

from config.load import load
from config.model import Config
from sbc.changes import difference, need_restart

TEXT = """
networks:
  public: {address: 192.0.2.1, listen: [udp:5060], media_ports: 20000-29999}
  private: {address: 10.0.0.1, listen: [udp:5060], media_ports: 20000-29999}
trunks:
  pbx: {network: private, servers: ["sip:10.0.0.20"]}
routes:
  - {from: public, to: pbx}
limits: {max_calls: 100}
control: {socket: /tmp/one.sock}
"""


def changed(old: str, new: str) -> tuple[Config, Config]:
    assert old in TEXT
    return load(TEXT), load(TEXT.replace(old, new))


def test_nothing_changed() -> None:
    same = load(TEXT), load("# a comment moves every line\n" + TEXT)
    assert difference(*same) == []
    assert need_restart(*same) == []


def test_a_changed_number_is_one_line() -> None:
    pair = changed("max_calls: 100", "max_calls: 50")
    assert difference(*pair) == ["limits.max_calls: 100 -> 50"]
    assert need_restart(*pair) == []


def test_a_trunk_that_comes_is_shown_with_its_keys() -> None:
    lines = difference(
        *changed("trunks:\n", 'trunks:\n  new: {network: public, servers: ["sip:192.0.2.9"]}\n')
    )
    assert "trunks.new.network: public added" in lines
    taken = difference(
        *reversed(changed("trunks:\n", 'trunks:\n  new: {network: public, servers: ["sip:192.0.2.9"]}\n'))
    )
    assert "trunks.new.network: public taken out" in taken


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("address: 192.0.2.1", "address: 192.0.2.2", "networks.public.address: 192.0.2.1 -> 192.0.2.2"),
        ("/tmp/one.sock", "/tmp/two.sock", "control.socket: /tmp/one.sock -> /tmp/two.sock"),
        ("limits:", "media: {workers: 3}\nlimits:", "media.workers: 0 -> 3"),
        (
            "networks:\n",
            "networks:\n  third: {address: 192.0.2.7, listen: [udp:5060], media_ports: 20000-29999}\n",
            "networks.third: its ports are not open yet",
        ),
    ],
)
def test_what_was_opened_at_start_needs_a_restart(old: str, new: str, sentence: str) -> None:
    assert need_restart(*changed(old, new)) == [sentence]


def test_listeners_need_a_restart() -> None:
    (sentence,) = need_restart(
        *changed("192.0.2.1, listen: [udp:5060]", "192.0.2.1, listen: [udp:5060, tcp:5060]")
    )
    assert sentence.startswith("networks.public.listen: udp:5060 -> udp:5060, tcp:5060")


def test_a_network_cannot_be_taken_away() -> None:
    old, new = changed(
        "networks:\n",
        "networks:\n  third: {address: 192.0.2.7, listen: [udp:5060], media_ports: 20000-29999}\n",
    )
    assert need_restart(new, old) == ["networks.third: its ports are open; it cannot be taken away"]
