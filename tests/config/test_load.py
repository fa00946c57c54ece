"""Good files, values from outside, and text that is no configuration at all."""

import os
import time
from pathlib import Path

import pytest

from config.load import examine, load
from config.problems import ConfigError

EXAMPLES = sorted((Path(__file__).parents[2] / "config" / "examples").glob("*.yaml"))

SMALL = """\
networks:
  public: {address: 203.0.113.10, listen: udp:5060}
  private: {address: 10.0.0.1}
trunks:
  carrier: {network: public, servers: "sip:198.51.100.10", from: 198.51.100.0/24}
  pbx: {network: private, servers: ["sip:10.0.0.20;transport=tcp", "sip:[::ffff:10.0.0.21]"]}
routes:
  - {from: carrier, to: pbx, prepend: PREPEND}
  - {from: pbx, match: "^\\\\+", to: carrier}
"""


def small(prepend: str = "0") -> str:
    return SMALL.replace("PREPEND", prepend).replace(', "sip:[::ffff:10.0.0.21]"', "")


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_examples_have_neither_errors_nor_warnings(file: Path) -> None:
    report = examine(file, {})
    assert report.config is not None
    assert report.problems == ()


def test_there_are_examples() -> None:
    assert {file.stem for file in EXAMPLES} >= {
        "quickstart",
        "pbx-behind-sbc",
        "dual-stack",
        "one-interface",
        "access",
        "local",
    }


def test_short_forms_become_values() -> None:
    config = load(small())
    assert [str(listen) for listen in config.networks["public"].listen] == ["udp:5060"]
    assert config.networks["public"].name == "public"
    assert str(config.trunks["carrier"].from_[0]) == "198.51.100.0/24"
    server = config.trunks["pbx"].servers[0]
    assert (server.host, server.port, server.transport) == ("10.0.0.20", None, "tcp")
    assert config.routes[1].to == ("carrier",)
    assert [route.line for route in config.routes] == [8, 9]


@pytest.mark.parametrize(
    "text",
    ["+15551234", "0015551234", "12:30", "yes", "on", "0o17", "0x1f", "1_000", ".inf", "2026-11-21", "-01"],
)
def test_what_looks_like_text_stays_text(text: str) -> None:
    assert load(small(text)).routes[0].prepend == text


@pytest.mark.parametrize("text", ["0", "49", "0.5", "1e3", "-1", "1.10"])
def test_a_number_where_text_belongs_keeps_its_digits(text: str) -> None:
    assert load(small(text)).routes[0].prepend == text


@pytest.mark.parametrize("text", ["true", "False", "TRUE"])
def test_a_constant_where_text_belongs_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"routes\[0\]\.prepend: (true|false) is not text"):
        load(small(text))


def test_numbers_are_numbers() -> None:
    config = load(small() + "timers: {no_answer_s: 20.5, max_call_s: 1e3}\nlimits: {max_calls: 5}\n")
    assert (config.timers.no_answer_s, config.timers.max_call_s, config.limits.max_calls) == (20.5, 1000.0, 5)
    assert type(config.limits.max_calls) is int


def test_empty_sections_are_as_if_left_out() -> None:
    assert load(small() + "limits:\ntimers: ~\n").limits.max_calls == 1000


def test_variables_are_replaced_and_take_their_type() -> None:
    text = small('"${CODE}"').replace("203.0.113.10", '"${IP}"') + 'limits: {max_calls: "${N}"}\n'
    config = load(text, {"CODE": "00", "IP": "203.0.113.99", "N": "7"})
    assert config.networks["public"].address == "203.0.113.99"
    assert config.routes[0].prepend == "00"
    assert config.limits.max_calls == 7
    with pytest.raises(ConfigError, match=r"limits\.max_calls: the value from outside does not fit"):
        load(text, {"CODE": "49", "IP": "203.0.113.99", "N": "seven"})


def test_a_doubled_dollar_is_meant_literally() -> None:
    assert load(small('"$${x}"'), {}).routes[0].prepend == "${x}"


def test_secret_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("0049\n")
    (tmp_path / "agent").write_text("Border 1\n")
    file = tmp_path / "sbc.yaml"
    text = small('"${file:code}"').replace("listen: udp:5060", "listen: udp:5060, user_agent: {file: agent}")
    file.write_text(text)
    config = load(file, {})
    assert config.routes[0].prepend == "0049"
    assert config.networks["public"].user_agent == "Border 1"


def test_a_log_file_is_no_secret_file() -> None:
    assert load(small() + "log: {file: /var/log/sbc.log}\n").log.file == "/var/log/sbc.log"


def test_values_from_outside_are_not_shown_in_later_checks() -> None:
    report = examine(
        small().replace("carrier, to: pbx", 'carrier, to: "${TRUNK}"'), {"TRUNK": "hunter2-trunk"}
    )
    assert report.config is None
    text = "\n".join(map(str, report.problems))
    assert "hunter2" not in text
    assert "there is no trunk (hidden)" in text


def test_repr_shows_no_values() -> None:
    assert repr(load(small())) == "Config('<text>', 2 networks, 2 trunks, 2 routes)"


def test_keys_know_their_place() -> None:
    config = load(small())
    assert config.position("trunks.pbx") == (6, 3)
    assert config.position("trunks.pbx.servers[0]") == (6, 37)
    assert config.position("trunks.pbx.max_calls") == (6, 3)
    assert config.position("limits.max_calls") == (1, 1)


def test_missing_file_and_directory_are_one_problem_each(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "nowhere.yaml", "no such file"), (tmp_path, "directory")):
        (problem,) = examine(path).problems
        assert (problem.line, problem.column, problem.key) == (1, 1, "")
        assert words in problem.message


@pytest.mark.skipif(os.geteuid() == 0, reason="machine: root reads every file")
def test_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "sbc.yaml"
    file.write_text(small())
    file.chmod(0)
    (problem,) = examine(file).problems
    assert "cannot be read" in problem.message


def test_a_path_that_is_none_is_a_problem() -> None:
    (problem,) = examine("a\0b").problems
    assert "cannot be read" in problem.message


def test_a_large_file_is_refused_by_its_size(tmp_path: Path) -> None:
    file = tmp_path / "sbc.yaml"
    file.write_bytes(b"#" * 1_048_577)
    (problem,) = examine(file).problems
    assert "longer than 1048576 bytes" in problem.message


def test_problems_come_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        load("routes: 1\nnetworks: 2\ntrunks: 3\n")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3]


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "sbc.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + small().encode())
    assert examine(file, {}).config is not None


def test_a_large_configuration_loads_in_reasonable_time() -> None:
    trunks = "".join(
        f"  t{n}: {{network: private, servers: 'sip:10.1.{n // 250}.{n % 250 + 1}'}}\n" for n in range(900)
    )
    routes = "".join(f"  - {{from: t{n}, match: '^{n}', to: pbx}}\n" for n in range(900))
    config = load(small().replace("routes:\n", trunks + "routes:\n") + routes)
    assert len(config.trunks) == 902


PHONES = """\
networks:
  public: {address: 203.0.113.10, nat: far-end}
  private: {address: 10.0.0.1}
trunks:
  carrier:
    network: private
    servers: ["sip:10.0.0.30"]
    credentials: {username: office, password: "${CARRIER}"}
    register: {user: office}
phones:
  network: public
  registrar: local
  users:
    alice: {password: "${ALICE}", numbers: "+15551234"}
    bob: {password: 0123}
  turn: {servers: "turn:203.0.113.20", secret: "${TURN}"}
routes:
  - {from: phones, to: phones, when: registered}
  - {from: phones, to: carrier}
"""
SECRETS = {"CARRIER": "tower of song", "ALICE": "everybody knows", "TURN": "first we take manhattan"}


def test_secrets_are_read_and_never_shown() -> None:
    config = load(PHONES, SECRETS)
    carrier, phones = config.trunks["carrier"], config.phones
    assert phones is not None and phones.turn is not None and carrier.credentials is not None
    alice = phones.users["alice"]
    assert alice.password is not None
    found = {carrier.credentials.password, alice.password, phones.turn.secret}
    assert {secret.get_secret_value() for secret in found} == set(SECRETS.values())
    bob = phones.users["bob"].password
    assert bob is not None and bob.get_secret_value() == "0123"
    for shown in (repr(config), repr(carrier), str(phones), repr(alice), f"{config.model_dump()}"):
        assert not any(secret in shown for secret in SECRETS.values())


def test_the_domain_of_the_phones_is_theirs_then_the_networks_then_our_address() -> None:
    assert load(PHONES, SECRETS).phones_domain == "203.0.113.10"
    with_domain = PHONES.replace("far-end}", "far-end, domain: SIP.example.com}")
    assert load(with_domain, SECRETS).phones_domain == "sip.example.com"
    both = with_domain.replace("registrar: local", "registrar: local\n  domain: example.com")
    assert load(both, SECRETS).phones_domain == "example.com"
    assert load(small()).phones_domain == ""


def test_the_advertised_address_is_ours_until_it_is_learned() -> None:
    text = small().replace(
        "udp:5060}", "udp:5060, advertise: auto, stun_servers: [stun.example.com, 192.0.2.1:99]}"
    )
    network = load(text).networks["public"]
    assert [str(server) for server in network.stun_servers] == ["stun.example.com:3478", "192.0.2.1:99"]
    assert network.advertised == "203.0.113.10"
    assert network.model_copy(update={"learned": "192.0.2.7"}).advertised == "192.0.2.7"
    literal = load(small().replace("udp:5060}", "udp:5060, advertise: 192.0.2.8}")).networks["public"]
    assert literal.model_copy(update={"learned": "192.0.2.7"}).advertised == "192.0.2.8"


def test_a_hash_is_the_same_in_capitals() -> None:
    text = PHONES.replace("{password: 0123}", "{ha1: {MD5: 0123456789ABCDEF0123456789ABCDEF}}")
    phones = load(text.replace("registrar: local", "registrar: local\n  domain: example.com"), SECRETS).phones
    assert phones is not None and phones.users["bob"].ha1 is not None
    assert phones.users["bob"].ha1["MD5"].get_secret_value() == "0123456789abcdef0123456789abcdef"


def test_two_thousand_routes_are_checked_in_no_time() -> None:
    routes = "".join(f'  - {{from: pbx, match: "^{n:04}", to: carrier}}\n' for n in range(2000))
    text = small().replace('  - {from: pbx, match: "^\\\\+", to: carrier}\n', routes)
    begin = time.process_time()
    config = load(text)
    assert len(config.routes) == 2001
    assert time.process_time() - begin < 6
