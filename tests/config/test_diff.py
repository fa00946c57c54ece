"""What is said about a reload."""

from config.diff import difference
from config.load import load
from config.model import Config

BASE = """\
networks:
  public: {address: 203.0.113.10}
  private: {address: 10.0.0.1}
trunks:
  carrier: {network: public, servers: "sip:198.51.100.10"}
  pbx: {network: private, servers: "sip:10.0.0.20"}
routes:
  - {from: carrier, to: pbx}
  - {from: pbx, to: carrier}
"""


def lines(old: str, new: str) -> list[str]:
    return [str(change) for change in difference(config(old), config(new))]


def config(text: str) -> Config:
    return load(text, {})


def test_comments_and_explicit_defaults_are_no_change() -> None:
    assert lines(BASE, "# a comment\n\n" + BASE + "timers: {t1_ms: 500}\n") == []


def test_each_key_has_its_line() -> None:
    new = BASE.replace("sip:10.0.0.20", "sip:10.0.0.21") + "limits: {max_calls: 50}\n"
    assert lines(BASE, new) == [
        "trunks.pbx.servers: [sip:10.0.0.20] -> [sip:10.0.0.21]",
        "limits.max_calls: 1000 -> 50",
    ]


def test_a_route_in_between_moves_the_others_without_a_word() -> None:
    new = BASE.replace("  - {from: pbx,", '  - {from: pbx, match: "^9", reject: {}}\n  - {from: pbx,')
    assert lines(BASE, new) == [
        "routes[1]: added {from: pbx, match: ^9, reject: {status: 403, reason: Forbidden}}",
    ]
    assert lines(new, BASE)[0].startswith("routes[1]: removed {from: pbx,")


def test_a_changed_route_shows_both_forms() -> None:
    new = BASE.replace("to: carrier}", "to: carrier, strip: 1}")
    assert lines(BASE, new) == [
        "routes[1]: {from: pbx, to: [carrier]} -> {from: pbx, to: [carrier], strip: 1}",
    ]


def test_trunks_come_and_go_live() -> None:
    new = BASE.replace("  pbx:", '  spare: {network: private, servers: "sip:10.0.0.9"}\n  pbx:')
    assert lines(BASE, new) == ["trunks.spare: added"]


def test_networks_come_and_go_and_move() -> None:
    new = BASE.replace("10.0.0.1}", "10.0.0.1, listen: udp:5080, nat: far-end}") + "media: {workers: 3}\n"
    new = new.replace("  public:", "  outside:").replace("network: public", "network: outside")
    assert lines(BASE, new) == [
        "networks.public: removed",
        "networks.private.listen: [udp:5060, tcp:5060] -> [udp:5080]",
        "networks.private.nat: none -> far-end",
        "networks.outside: added",
        "trunks.carrier.network: public -> outside",
        "media.workers: 0 -> 3",
    ]


PHONES = """\
phones:
  network: public
  registrar: local
  users:
    alice: {password: everybody knows}
    bob: {password: tower of song, numbers: ["2"]}
"""


def test_secrets_are_compared_and_not_shown() -> None:
    credentials = 'servers: "sip:198.51.100.10", credentials: {username: a, password: suzanne}'
    old = BASE.replace('servers: "sip:198.51.100.10"', credentials) + PHONES
    new = old.replace("suzanne", "marianne").replace("everybody knows", "hallelujah")
    assert lines(old, new) == [
        "trunks.carrier.credentials.password: (hidden) -> (hidden)",
        "phones.users.alice.password: (hidden) -> (hidden)",
    ]


def test_users_come_and_go_and_so_do_the_phones() -> None:
    new = (PHONES + "    carol: {password: x}\n").replace('numbers: ["2"]', 'numbers: ["3"]')
    assert lines(BASE + PHONES, BASE + new) == [
        "phones.users.bob.numbers: [2] -> [3]",
        "phones.users.carol: added",
    ]
    store = PHONES.replace("local\n", "local\n  store: null\n")
    assert lines(BASE + PHONES, BASE + store) == ["phones.store: /var/lib/sbc/locations.db -> none"]
    assert lines(BASE, BASE + PHONES) == ["phones: added"]


def test_what_is_learned_is_no_difference_of_the_file() -> None:
    text = BASE.replace("203.0.113.10}", "203.0.113.10, advertise: auto, stun_servers: stun.example.com}")
    old = config(text)
    public = old.networks["public"].model_copy(update={"learned": "192.0.2.1"})
    learned = old.model_copy(update={"networks": {**old.networks, "public": public}})
    assert difference(learned, old) == ()
