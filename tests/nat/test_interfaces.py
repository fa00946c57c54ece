"""Interfaces to addresses, with what netifaces would say given by the test."""

import socket

import netifaces
import pytest

from config.load import load
from config.model import Config
from config.problems import ConfigError
from nat.interfaces import addresses_of, interface_names, local_addresses, preferred, resolve

HOST = {
    "eth0": {
        socket.AF_INET: [{"addr": "10.0.0.1"}, {"addr": "198.51.100.7"}],
        socket.AF_INET6: [{"addr": "fe80::1%eth0"}, {"addr": "fd00::1"}],
        socket.AF_PACKET: [{"addr": "02:00:00:00:00:01"}],
    },
    "eth1": {socket.AF_INET6: [{"addr": "2001:db8::1"}]},
    "eth2": {socket.AF_PACKET: [{"addr": "02:00:00:00:00:02"}]},
    "eth3": {socket.AF_INET6: [{"addr": "fe80::3%eth3"}]},
    "lo": {socket.AF_INET: [{"addr": "127.0.0.1", "netmask": "255.0.0.0"}]},
}

CONFIG = """\
networks:
  public: {interface: PUBLIC}
  private: {address: 10.0.0.9}
trunks:
  carrier: {network: public, servers: "sip:carrier.example"}
  pbx: {network: private, servers: "sip:10.0.0.20"}
routes:
  - {from: carrier, to: pbx}
  - {from: pbx, to: carrier}
"""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netifaces, "interfaces", lambda: list(HOST))
    monkeypatch.setattr(netifaces, "ifaddresses", lambda name: HOST[name])


def config(interface: str) -> Config:
    return load(CONFIG.replace("PUBLIC", interface), {})


def test_ipv4_first_and_the_widest_scope_first() -> None:
    assert addresses_of("eth0") == ("198.51.100.7", "10.0.0.1", "fd00::1")


def test_what_does_not_exist_has_no_addresses() -> None:
    assert addresses_of("eth9") == ()
    assert addresses_of("eth2") == ()


def test_names_and_all_addresses() -> None:
    assert interface_names() == ("eth0", "eth1", "eth2", "eth3", "lo")
    assert local_addresses() == ("198.51.100.7", "10.0.0.1", "127.0.0.1", "2001:db8::1", "fd00::1")


def test_duplicates_and_zones_go() -> None:
    assert preferred(["fe80::1%a", "10.0.0.1", "10.0.0.1", "0.0.0.0", "x"]) == ("10.0.0.1",)


def test_both_families_of_an_interface_are_taken() -> None:
    public = resolve(config("eth0")).networks["public"]
    assert (public.address, public.address6) == ("198.51.100.7", "fd00::1")


def test_ipv6_alone_is_the_address() -> None:
    public = resolve(config("eth1")).networks["public"]
    assert (public.address, public.address6) == ("2001:db8::1", None)


def test_nothing_to_resolve_changes_nothing() -> None:
    plain = load(CONFIG.replace("interface: PUBLIC", "address: 203.0.113.10"), {})
    assert resolve(plain) is plain


@pytest.mark.parametrize(
    ("name", "words"), [("eth9", "there is no interface eth9"), ("eth3", "no usable address")]
)
def test_an_interface_without_address_is_a_problem_with_its_place(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(config(name))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.key) == (2, 12, "networks.public.interface")
    assert words in problem.message


def test_what_only_the_address_shows_is_checked_then() -> None:
    text = CONFIG.replace("PUBLIC", "eth0").replace("10.0.0.9", "198.51.100.7")
    with pytest.raises(ConfigError, match="already taken"):
        resolve(load(text, {}))
