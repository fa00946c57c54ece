"""What a configuration wants of this host: interfaces, addresses, descriptors, names of servers."""

import pytest

from config.load import load
from sbc import preflight
from sbc.names import Found
from sbc.preflight import examine_host, few_descriptors, kernel_path, names_of_servers
from sbc.trunks import Lookup

TEXT = """
networks:
  a: {interface: lo, listen: [udp:5060], media_ports: 20000-29999}
  b: {address: 127.0.0.1, listen: [udp:5061], media_ports: 30000-39999}
trunks:
  t: {network: b, servers: ["sip:nowhere.invalid", "sip:192.0.2.1"]}
routes: [{from: a, to: t}]
"""


def test_an_interface_becomes_its_addresses() -> None:
    config, said = examine_host(load(TEXT))
    assert config is not None
    assert config.networks["a"].address == "127.0.0.1"
    assert said == []


def test_a_clash_behind_an_interface_is_a_mistake() -> None:
    config, said = examine_host(load(TEXT.replace("5061", "5060")))
    assert config is None
    assert any("udp:5060 on 127.0.0.1 is already taken by networks.a.listen[0]" in line for line in said)


def test_an_interface_that_is_not_here_is_a_warning() -> None:
    config, (said,) = examine_host(load(TEXT.replace("interface: lo", "interface: nosuch0")))
    assert config is not None
    assert "warning: networks.a.interface: there is no interface nosuch0" in said


def test_a_folder_that_is_not_here_is_a_warning() -> None:
    config, (said,) = examine_host(
        load(TEXT + "log: {cdr: /no/such/folder/calls.jsonl, file: /tmp/sbc.log}\n")
    )
    assert config is not None
    assert "warning: log.cdr: there is no directory /no/such/folder" in said


def test_names_are_left_alone_unless_asked_for() -> None:
    (note,) = names_of_servers(load(TEXT), ask=False)
    assert note.endswith("note: names of servers were not looked up (--resolve does): nowhere.invalid")
    assert names_of_servers(load(TEXT.replace('"sip:nowhere.invalid", ', "")), ask=False) == []


def test_a_name_that_is_not_found_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_up(_: object, lookups: tuple[Lookup, ...]) -> list[Found]:
        return [Found(lookup, why="the name has no address") for lookup in lookups]

    monkeypatch.setattr(preflight, "look_up", look_up)
    (warning,) = names_of_servers(load(TEXT), ask=True)
    assert warning.endswith("warning: trunks.t.servers: nowhere.invalid: the name has no address")


def test_few_descriptors_are_counted_by_call() -> None:
    config = load(TEXT)
    assert few_descriptors(config, 100_000) == []
    (warning,) = few_descriptors(config, 1024)
    assert "1000 calls want 4200 open files, and this host allows 1024" in warning


@pytest.mark.parametrize(("mode", "level"), [("auto", "note"), ("on", "warning"), ("off", "")])
def test_why_the_kernel_forwards_nothing_here_is_told(
    monkeypatch: pytest.MonkeyPatch, mode: str, level: str
) -> None:
    config = load(f'{TEXT}media: {{fastpath: "{mode}"}}\n'.replace("interface: lo", "address: 127.0.0.1"))
    for obstacle, why in (
        ("rtp.bpf.o is not there", "rtp.bpf.o is not there"),
        (None, "lo, which has 127.0.0.1, is not Ethernet"),
    ):
        monkeypatch.setattr(preflight, "obstacle", lambda obstacle=obstacle: obstacle)
        told = kernel_path(config)
        assert told == (
            [f"{config.path}: {level}: media.fastpath: not in the kernel here: {why}"] if level else []
        )
