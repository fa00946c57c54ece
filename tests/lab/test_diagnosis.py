"""`sbc explain` names the cause of one-way and of no audio: each fault is made with real packets, and found by its id.

One border serves all: on port 5060 it expects no NAT, on 5070 it does, and on 5080 it advertises an address that
leads nowhere. The homes are those of homes.py; their routers, too, are part of what goes wrong.
"""

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.alg import Alg, contact_only, sdp_address_only, sdp_foreign_address, sdp_wrong_port
from tests.lab.border import FAST
from tests.lab.faults import MEDIA_PORT, UNEVEN, Joined, Manner, Speaker, Spot, connect, gaps
from tests.lab.homes import Nat, Village
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, obstacle
from tests.lab.talk import assert_no_traceback, hang_up_all, sdp

pytestmark = pytest.mark.lab

PLAIN, FAR, WRONG = 5060, 5070, 5080
"""The border's ports: no NAT expected, NAT expected, a wrong address advertised."""
SPEECH_S = 0.9
HEALTHY = {"call": "up", "": "healthy"}


def configuration(village: Village) -> str:
    """The border of all calls here."""
    listener = (
        "{{address: {host}, listen: [udp:{port}], media_ports: {first}-{last}, domain: border.example{more}}}"
    )
    public, private = SIDES[PUBLIC].border, SIDES[PRIVATE].border
    networks = {
        "plain": listener.format(host=public, port=PLAIN, first=20000, last=20499, more=""),
        "far": listener.format(host=public, port=FAR, first=20500, last=20999, more=", nat: far-end"),
        "wrong": listener.format(
            host=public, port=WRONG, first=21000, last=21499, more=", advertise: 203.0.113.99"
        ),
        "private": listener.format(host=private, port=5060, first=20000, last=21999, more=""),
    }
    timers = ", ".join(f"{name}: {value}" for name, value in FAST.items())
    lines = ["networks:", *(f"  {name}: {line}" for name, line in networks.items())]
    lines += [
        "trunks:",
        f'  pbx: {{network: private, servers: ["sip:{SIDES[PRIVATE].peer}"]}}',
        "routes:",
        *(f"  - {{from: {name}, to: pbx}}" for name in ("plain", "far", "wrong")),
        f"timers: {{{timers}}}",
        "limits: {max_calls: 100}",
        f"log: {{level: info, cdr: {village.directory}/cdr.jsonl, trace: full}}",
        f"control: {{socket: {village.directory}/control.sock}}",
        "media: {codecs: [PCMU, PCMA, telephone-event]}",
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def village(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    """Two homes, a border that has to be free of faults at the end."""
    reason = obstacle("nft")
    if reason:
        pytest.skip(reason)
    with Village(tmp_path_factory.mktemp("faults")) as village:
        village.home("a")
        village.home("b", Nat.SYMMETRIC)
        village.start(configuration(village))
        yield village
        assert_no_traceback(village.border)
        assert village.border.leftovers() == {}
        assert village.border.stop() == 0


class Street:
    """Places a call of a test, numbered, and cleans up behind it."""

    def __init__(self, village: Village) -> None:
        self.village = village
        self.calls: list[Joined] = []
        self.undo: list[Callable[[], object]] = []

    def cone(self, port: int) -> Spot:
        """A phone behind a port-restricted cone."""
        return Spot.at(self.village.homes["a"], port)

    def symmetric(self, port: int) -> Spot:
        """A phone behind a symmetric NAT."""
        return Spot.at(self.village.homes["b"], port)

    def call(
        self,
        at: Spot,
        *,
        offer: str | None = None,
        answer: str | None = None,
        second_offer: str | None = None,
        after_ms: int = 500,
        speaks_at: Spot | None = None,
    ) -> Joined:
        """A call from there."""
        joined = connect(
            self.village,
            at,
            next(NUMBERS),
            offer=offer,
            answer=answer,
            second_offer=second_offer,
            after_ms=after_ms,
            speaks_at=speaks_at,
        )
        self.calls.append(joined)
        return joined

    def stranger(self, at: Spot) -> Speaker:
        """Somebody that has no call."""
        speaker = Speaker(self.village, at, "b", MEDIA_PORT + 50)
        self.undo.append(speaker.close)
        return speaker

    def close(self) -> None:
        """No call, no rule and no proxy is left for the next test."""
        hang_up_all(self.village.border)
        for joined in self.calls:
            joined.close()
        for step in reversed(self.undo):
            step()


NUMBERS = itertools.count(1)


@pytest.fixture
def street(village: Village) -> Iterator[Street]:
    """Where the phones of one test are."""
    fresh = Street(village)
    yield fresh
    fresh.close()


def spoken(joined: Joined, a: Manner | None = None, b: Manner | None = None) -> dict[str, str]:
    """What is found after both have spoken for a moment; a moment more where a busy machine has made that uneven."""
    joined.speak(a, b)
    for _ in range(3):
        time.sleep(SPEECH_S)
        found = joined.found()
        if UNEVEN.isdisjoint(found.values()):
            break
    return found


def assert_heard(joined: Joined, *listeners: str) -> None:
    """These hear the other one, and nobody else does: the fault is there, and it is what was meant."""
    for name, speaker, other in (("a", joined.a, "b"), ("b", joined.b, "a")):
        share = speaker.hears(other)
        assert share > 0.9 if name in listeners else share < 0.1, f"{name} hears {share:.2f}"


SILENT = Manner(rtp=False, rtcp=False)


# -- healthy calls: nothing is said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(lambda street: Spot.public(PLAIN), id="no-nat"),
        pytest.param(lambda street: Spot.public(FAR), id="no-nat-but-expected"),
        pytest.param(lambda street: street.cone(FAR), id="cone"),
        pytest.param(lambda street: street.symmetric(FAR), id="symmetric"),
    ],
)
def test_a_healthy_call(street: Street, where: Callable[[Street], Spot]) -> None:
    joined = street.call(where(street))
    assert spoken(joined) == HEALTHY
    assert_heard(joined, "a", "b")
    assert joined.end() == {"call": "operator", "": "healthy"}


@pytest.mark.parametrize("rewrite", [contact_only, sdp_address_only, sdp_wrong_port, sdp_foreign_address])
def test_an_alg_that_the_border_gets_over(street: Street, rewrite: Callable[..., str]) -> None:
    """With `nat: far-end` the media of the SIP source is believed, whatever the ALG has made of the SDP."""
    alg = Alg(street.village.street, street.village.homes["a"], rewrite, FAR)
    street.undo.append(alg.stop)
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == HEALTHY
    assert alg.rewritten > 0
    assert_heard(joined, "a", "b")


# -- faults ------------------------------------------------------------------------------------------------------


def test_nat_without_help(street: Street) -> None:
    joined = street.call(street.cone(PLAIN))
    assert spoken(joined, SILENT) == {"call": "up", "B": "not-forwarded", "A": "private-unhelped"}
    assert spoken(joined) == {"call": "up", "B": "not-forwarded", "A": "nat-unhelped"}
    assert_heard(joined)
    assert joined.end() == {"call": "operator", "B": "not-forwarded", "A": "nat-unhelped"}


def test_symmetric_nat_without_help(street: Street) -> None:
    joined = street.call(street.symmetric(PLAIN))
    assert spoken(joined) == {"call": "up", "B": "not-forwarded", "A": "nat-unhelped"}
    assert_heard(joined)


@pytest.mark.parametrize("rewrite", [sdp_foreign_address])
def test_an_alg_that_names_another_host(street: Street, rewrite: Callable[..., str]) -> None:
    alg = Alg(street.village.street, street.village.homes["a"], rewrite, PLAIN)
    street.undo.append(alg.stop)
    joined = street.call(street.cone(PLAIN))
    assert spoken(joined) == {"call": "up", "B": "healthy", "A": "sdp-rewritten"}
    assert_heard(joined)


def test_an_alg_that_rewrites_contact_alone(street: Street) -> None:
    alg = Alg(street.village.street, street.village.homes["a"], contact_only, PLAIN)
    street.undo.append(alg.stop)
    joined = street.call(street.cone(PLAIN))
    assert spoken(joined)["A"] == "nat-unhelped"


def test_a_pinhole_that_lets_nothing_out(street: Street) -> None:
    home = street.village.homes["a"]
    home.drop('iifname "lan*" udp dport 20500-20999')
    street.undo.append(home.pass_all)
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == {"call": "up", "B": "not-forwarded", "A": "nat-not-opened"}
    assert_heard(joined)


def test_a_pinhole_that_lets_no_rtp_out(street: Street) -> None:
    home = street.village.homes["a"]
    home.drop('iifname "lan*" udp dport 20500-20999 udp sport 41000')
    street.undo.append(home.pass_all)
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == {"call": "up", "B": "not-forwarded", "A": "no-rtp"}


def test_a_pinhole_that_lets_nothing_in(street: Street) -> None:
    home = street.village.homes["a"]
    home.drop('iifname "wan" udp sport 20500-20999')
    street.undo.append(home.pass_all)
    joined = street.call(street.cone(FAR))
    joined.speak()
    time.sleep(10.5)
    assert joined.found() == {"call": "up", "A": "healthy", "B": "unheard"}
    assert_heard(joined, "b")


def test_loss_on_the_way_to_the_phone(street: Street) -> None:
    home = street.village.homes["a"]
    home.drop('iifname "wan" udp sport 20500-20999 numgen inc mod 10 < 3')
    street.undo.append(home.pass_all)
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == {"call": "up", "A": "healthy", "B": "lost-beyond"}


def test_a_wrong_address_advertised(street: Street) -> None:
    joined = street.call(Spot.public(WRONG))
    assert spoken(joined) == {"call": "up", "B": "healthy", "A": "wrong-advertise"}
    assert_heard(joined, "a")


def test_a_caller_that_sends_nothing(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined, SILENT) == {"call": "up", "B": "healthy", "A": "nothing"}
    assert_heard(joined, "a")


def test_a_firewall_on_the_way_of_both(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined, SILENT, SILENT) == {"call": "up", "": "nothing-at-all"}


def test_a_caller_that_sends_rtcp_only(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined, Manner(rtp=False)) == {"call": "up", "B": "healthy", "A": "only-rtcp"}


@pytest.mark.parametrize("payload_type", [18, 97])
def test_a_codec_that_was_not_agreed(street: Street, payload_type: int) -> None:
    joined = street.call(Spot.public(PLAIN))
    found = spoken(joined, None, Manner(payload_type=payload_type))
    assert found == {"call": "up", "A": "healthy", "B": "wrong-codec"}


def test_comfort_noise_alone(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    found = spoken(joined, Manner(payload_type=13, payload=b"\x40"))
    assert found == {"call": "up", "B": "healthy", "A": "only-noise"}


def test_digits_alone(street: Street) -> None:
    rtpmap = ("0 PCMU/8000", "101 telephone-event/8000")
    offer, answer = (
        sdp(spot.host, MEDIA_PORT, formats="0 101", rtpmap=rtpmap)
        for spot in (Spot.public(PLAIN), Spot.private())
    )
    joined = street.call(Spot.public(PLAIN), offer=offer, answer=answer)
    found = spoken(joined, Manner(payload_type=101, payload=b"\x05\x0a\x00\xa0"))
    assert found == {"call": "up", "B": "healthy", "A": "only-digits"}


def test_loss(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined, Manner(passes=gaps)) == {"call": "up", "B": "healthy", "A": "loss"}


def test_loss_in_the_router(street: Street) -> None:
    """Packets that a real filter takes."""
    home = street.village.homes["a"]
    home.drop('iifname "lan*" udp dport 20500-20999 numgen inc mod 10 < 3')
    street.undo.append(home.pass_all)
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == {"call": "up", "B": "healthy", "A": "loss"}


def test_jitter(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined, None, Manner(frames=3, burst=3)) == {"call": "up", "A": "healthy", "B": "jitter"}


def test_media_from_another_host_than_signalled(street: Street) -> None:
    elsewhere = Spot.public(PLAIN, number=1)
    joined = street.call(Spot.public(PLAIN), offer=sdp(elsewhere.host, MEDIA_PORT))
    assert spoken(joined) == {"call": "up", "B": "healthy", "A": "strangers-unhelped"}


def test_media_that_leaves_by_another_way_than_sip(street: Street) -> None:
    """SIP of the second public host, SDP of a third, media from the first one: nobody vouches for it."""
    joined = street.call(
        Spot.public(FAR, number=1),
        offer=sdp(Spot.public(FAR, number=2).host, MEDIA_PORT),
        speaks_at=Spot.public(FAR),
    )
    assert spoken(joined) == {"call": "up", "B": "healthy", "A": "strangers-only"}


def test_rtp_to_the_port_of_rtcp(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    found = spoken(joined, Manner(rtcp_port_for_rtp=True, rtcp=False))
    assert found == {"call": "up", "B": "healthy", "A": "no-rtp"}


def test_a_phone_that_waits_for_dtls(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    hello = b"\x16\xfe\xff" + bytes(40)
    found = spoken(joined, Manner(passes=lambda packet, number: [hello], rtcp=False))
    assert found == {"call": "up", "B": "healthy", "A": "no-rtp"}


def test_media_that_stays_at_the_old_address(street: Street) -> None:
    """A says by re-INVITE that it moves, and goes on from where it was."""
    moved = sdp(Spot.public(number=1).host, MEDIA_PORT + 100, version=2)
    joined = street.call(Spot.public(PLAIN), second_offer=moved, after_ms=600)
    assert spoken(joined)["call"] == "up"
    time.sleep(0.9)
    assert joined.found() == {"call": "up", "B": "healthy", "A": "elsewhere"}


def test_hold_and_what_is_sent_in_spite_of_it(street: Street) -> None:
    spot = Spot.public(PLAIN)
    offer = sdp(spot.host, MEDIA_PORT, way="inactive")
    answer = sdp(Spot.private().host, MEDIA_PORT, way="inactive")
    joined = street.call(spot, offer=offer, answer=answer)
    assert spoken(joined, SILENT, SILENT) == {"call": "up", "": "held"}


def test_a_caller_that_only_wants_to_send(street: Street) -> None:
    spot = Spot.public(PLAIN)
    joined = street.call(
        spot,
        offer=sdp(spot.host, MEDIA_PORT, way="sendonly"),
        answer=sdp(Spot.private().host, MEDIA_PORT, way="recvonly"),
    )
    assert spoken(joined, None, SILENT) == {"call": "up", "A": "healthy", "B": "held"}


def test_silence_after_hold(street: Street) -> None:
    """B is taken back from hold and stays silent."""
    again = sdp(Spot.public().host, MEDIA_PORT, version=2)
    joined = street.call(Spot.public(PLAIN), second_offer=again, after_ms=700)
    assert spoken(joined)["call"] == "up"
    joined.b.hush()
    time.sleep(3.3)
    assert joined.found() == {"call": "up", "A": "healthy", "B": "stopped"}


def test_a_firewall_that_closes_in_the_middle_of_a_call(street: Street) -> None:
    home = street.village.homes["a"]
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == HEALTHY
    home.drop('iifname "lan*" udp dport 20500-20999')
    street.undo.append(home.pass_all)
    time.sleep(3.3)
    assert joined.found() == {"call": "up", "B": "healthy", "A": "stopped"}


def test_a_mapping_that_is_lost_in_the_middle_of_a_call(street: Street) -> None:
    """The router starts anew with another address: the media comes from a host that nobody named."""
    home = street.village.homes["a"]
    joined = street.call(street.cone(FAR))
    assert spoken(joined) == HEALTHY
    home.reboot()
    time.sleep(3.3)
    assert joined.found() == {"call": "up", "B": "healthy", "A": "moved"}


def test_a_stranger_that_sprays_is_an_aside(street: Street) -> None:
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined) == HEALTHY
    stranger = street.stranger(Spot.public(number=2))
    stranger.speak(joined.ours["a"], Manner(rtcp=False))
    time.sleep(SPEECH_S)
    assert joined.found() == {"call": "up", "": "healthy", "A": "strangers"}
    assert_heard(joined, "a", "b")


def test_the_firewall_of_the_private_side(street: Street) -> None:
    rule = ("ipproto", "udp", "dport", "20000-65000", "blackhole")
    run = street.village.namespaces.run
    run(PRIVATE, "ip", "rule", "add", *rule)
    street.undo.append(lambda: run(PRIVATE, "ip", "rule", "del", *rule))
    joined = street.call(Spot.public(PLAIN))
    assert spoken(joined) == {"call": "up", "A": "healthy", "B": "nothing"}
    assert_heard(joined, "b")


def test_a_nat_that_rebinds_in_mid_call_is_followed(street: Street) -> None:
    """The router forgets its mappings and keeps its address: media goes on from another port of the same host."""
    home = street.village.homes["b"]
    joined = street.call(street.symmetric(FAR))
    assert spoken(joined) == HEALTHY
    home.reboot(keep_address=True)
    time.sleep(2)
    since = time.monotonic()
    time.sleep(SPEECH_S)
    assert joined.found() == {"call": "up", "B": "healthy", "A": "rebound"}
    assert joined.a.hears("b", since) > 0.9 and joined.b.hears("a", since) > 0.9
