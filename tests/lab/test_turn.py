"""A network that lets nothing through but SIP and one TURN server: coturn carries the media of every call.

    private ── sbc ──(wall)── public ── relay (coturn)

The relay has a namespace and a recording of its own, since media between it and the peers never meets the border.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.harness.rtp import Tone, rtp_packet
from tests.lab.border import configuration
from tests.lab.capture import UDP, Capture
from tests.lab.homes import Street
from tests.lab.lab import FOUND, HZ, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES, Process, obstacle
from tests.lab.sound import heard
from tests.lab.talk import inside, udp

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine_with_coturn")]

RELAY = "relay"
COTURN, GATE = "192.0.2.20", "192.0.2.1"
COTURN6, GATE6 = "2001:db8:c::20", "2001:db8:c::1"
SECRET = "first we take manhattan"
_FIREWALL = """
table inet wall {{
  chain in {{
    type filter hook input priority filter; policy accept;
    iifname "to-public" udp sport {{ 5060, 5062 }} accept
    iifname "to-public" {family} saddr {coturn} udp sport 3478 accept
    iifname "to-public" meta l4proto udp drop
  }}
  chain out {{
    type filter hook output priority filter; policy accept;
    oifname "to-public" udp sport 5060 accept
    oifname "to-public" {family} daddr {coturn} udp dport 3478 accept
    oifname "to-public" meta l4proto udp drop
  }}
}}
"""


@pytest.fixture(scope="session")
def machine_with_coturn(machine: None) -> None:
    """Skips when there is no coturn or no nftables."""
    reason = obstacle("turnserver", "nft")
    if reason:
        pytest.skip(reason)


class Walled(Lab):
    """A lab whose border reaches SIP and coturn on the public side, and nothing else; that by one address family."""

    def __init__(self, directory: Path, family: int = 4) -> None:
        super().__init__(directory)
        self.street = Street(directory)
        self.namespaces = self.street
        self.family = family
        self.relay = COTURN if family == 4 else COTURN6
        self.outside = SIDES[PUBLIC].border if family == 4 else SIDES[PUBLIC].border6

    def __enter__(self) -> "Walled":
        super().__enter__()
        street = self.street
        street.add(RELAY)
        street.cable(PUBLIC, "to-relay", RELAY, "eth0")
        four = self.family == 4
        gate, length = (GATE, 24) if four else (GATE6, 64)
        for namespace, address, device in ((PUBLIC, gate, "to-relay"), (RELAY, self.relay, "eth0")):
            flags = () if four else ("nodad",)
            street.run(namespace, "ip", "address", "add", f"{address}/{length}", "dev", device, *flags)
        forwarding = "net.ipv4.ip_forward" if four else "net.ipv6.conf.all.forwarding"
        street.run(PUBLIC, "sysctl", "-qw", f"{forwarding}=1")
        street.run(RELAY, "ip", "route", "add", "default", "via", gate)
        street.run(SBC, "ip", "route", "add", self.relay, "via", self.host(PUBLIC, self.family))
        street.run(SBC, "nft", _FIREWALL.format(family="ip" if four else "ip6", coturn=self.relay))
        self._at_relay = Capture(street, RELAY)
        return self

    def stop_recording(self) -> None:
        """That of the relay too."""
        super().stop_recording()
        self._at_relay.stop()

    def assert_heard_by_the_relay(self) -> None:
        """Each side hears the other, and the border exchanges nothing but SIP with the public side itself."""
        private, public = SIDES[PRIVATE].peer, self.host(PUBLIC, self.family)
        assert heard(self._captures[PRIVATE].audio(private), HZ[PUBLIC]) > FOUND
        assert heard(self._at_relay.audio(public), HZ[PRIVATE]) > FOUND
        media = [
            {packet.source[0], packet.destination[0]}
            for packet in self._captures[PUBLIC].packets()
            if packet.protocol == UDP and 5060 not in (packet.source[1], packet.destination[1])
        ]
        assert len(media) > 100
        assert all(ends == {self.outside, self.relay} for ends in media)

    def coturn(self, *credentials: str) -> Process:
        """The relay."""
        process = self.namespaces.start(
            RELAY,
            "coturn",
            [
                *(
                    "turnserver",
                    "-n",
                    "--listening-ip",
                    self.relay,
                    "--relay-ip",
                    self.relay,
                    "--no-tls",
                    "--no-dtls",
                ),
                *("--no-cli", "--simple-log", "--log-file", "stdout", "--verbose"),
                *("--pidfile", f"{self.directory}/coturn.pid", "--userdb", f"{self.directory}/coturn.db"),
                *(
                    "--realm",
                    "example.org",
                    *(credentials or ("--use-auth-secret", "--static-auth-secret", SECRET)),
                ),
            ],
        )
        process.await_text(f"UDP listener opened on: {self.relay}:3478")
        return process

    def yaml(self, account: str = f'secret: "{SECRET}"') -> str:
        """The usual configuration, with media of the public network by the relay."""
        public = SIDES[PUBLIC]
        turn = f'    turn: {{server: "turn:{host_of(self.relay)}", {account}}}\n'
        text = configuration(
            self.namespaces, to_public=[f"sip:{host_of(self.host(PUBLIC, self.family))}"]
        ).replace("    media_ports: 20000-21999\n", "", 1)
        addresses = f'    address: {public.border}\n    address6: "{public.border6}"\n'
        assert addresses in text
        text = text.replace(addresses, f'    address: "{self.outside}"\n{turn}', 1)
        prefixes = f'"{public.prefix}", "{public.prefix6}"'
        return text.replace(prefixes, f'"{public.prefix if self.family == 4 else public.prefix6}"', 1)


def host_of(address: str) -> str:
    """An address in a URI."""
    return f"[{address}]" if ":" in address else address


@pytest.fixture
def walled(machine_with_coturn: None, tmp_path: Path) -> Iterator[Walled]:
    """A walled lab without a border yet."""
    with Walled(tmp_path) as fresh:
        yield fresh


@pytest.mark.parametrize("account", [f'secret: "{SECRET}"', "username: border, password: hallelujah"])
@pytest.mark.parametrize("origin", [PUBLIC, PRIVATE])
def test_both_sides_hear_each_other_by_the_relay(walled: Walled, origin: str, account: str) -> None:
    walled.coturn(*(() if "secret" in account else ("--lt-cred-mech", "--user", "border:hallelujah")))
    border = walled.start(walled.yaml(account))
    assert f"TURN relay call=- leg=- network=public address={COTURN}" in border.process.text
    callee = walled.callee(PRIVATE if origin == PUBLIC else PUBLIC, audio=True)
    caller = walled.caller(origin, audio=True, hold_ms=1800)
    caller.done()
    callee.done()
    walled.finish()
    walled.assert_heard_by_the_relay()
    assert SECRET not in border.process.text and "hallelujah" not in border.process.text


@pytest.mark.parametrize("origin", [PUBLIC, PRIVATE])
def test_a_relay_that_is_reached_by_ipv6(machine_with_coturn: None, tmp_path: Path, origin: str) -> None:
    """It is asked for an address of that family, for the public side knows no other; the private side has IPv4."""
    with Walled(tmp_path, 6) as walled:
        walled.coturn()
        border = walled.start(walled.yaml())
        assert f"TURN relay call=- leg=- network=public address={COTURN6}" in border.process.text
        family = {PUBLIC: 6, PRIVATE: 4}
        target = PRIVATE if origin == PUBLIC else PUBLIC
        callee = walled.callee(target, audio=True, family=family[target])
        caller = walled.caller(origin, audio=True, hold_ms=1800, family=family[origin])
        caller.done()
        callee.done()
        walled.finish()
        walled.assert_heard_by_the_relay()


def test_without_a_relay_calls_are_refused_and_with_it_they_are_not(walled: Walled) -> None:
    border = walled.start(walled.yaml())
    assert "no TURN relay yet" in border.process.text
    walled.callee(PRIVATE)
    refused = walled.caller(PUBLIC)
    with pytest.raises(AssertionError):
        refused.done()
    walled.coturn()
    border.process.await_text(f"address={COTURN}", 60)
    walled.caller(PUBLIC).done()


def test_a_refused_peer_is_neither_sent_to_nor_heard(walled: Walled) -> None:
    """CVE-2020-26262: what the relay reaches and callers must not. The call stands, and the log says whose media."""
    walled.coturn()
    border = walled.start(walled.yaml(f'secret: "{SECRET}", refuse: ["{SIDES[PUBLIC].prefix}"]'))
    walled.callee(PRIVATE, audio=True)
    walled.caller(PUBLIC, audio=True, hold_ms=1000).done()
    walled.stop_recording()
    peer = SIDES[PUBLIC].peer
    assert "TURN peer refused call=c-" in border.process.text and f"address={peer}" in border.process.text
    assert not [one for one in walled._at_relay.packets() if one.destination[0] == peer]
    assert len(walled._captures[PRIVATE].audio(SIDES[PRIVATE].peer)) == 0


def test_a_wrong_password_is_said_and_not_shown(walled: Walled) -> None:
    walled.coturn("--lt-cred-mech", "--user", "border:hallelujah")
    border = walled.start(walled.yaml("username: border, password: suzanne"))
    border.process.await_text('why="401 Unauthorized"')
    assert "suzanne" not in border.process.text


def test_the_gateway_is_replaced_and_so_is_what_the_relay_has_forgotten(walled: Walled) -> None:
    coturn = walled.coturn()
    border = walled.start(walled.yaml())
    walled.callee(PRIVATE, calls=3, audio=True)
    walled.caller(PUBLIC, audio=True, hold_ms=300).done()
    (gateway,) = [pid for pid in border.pids() if "turn_gateway" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(gateway, signal.SIGKILL)
    border.process.await_text("TURN gateway restarted")
    border.process.await_text("TURN relay reached again", 30)
    walled.caller(PUBLIC, audio=True, hold_ms=300).done()
    coturn.stop()
    walled.coturn()
    # Its first refresh at the latest tells us that none of our addresses is there any more.
    before = border.process.text.count("TURN relay reached again")
    border.process.await_text("437", 60)
    deadline = time.monotonic() + 30
    while border.process.text.count("TURN relay reached again") == before and time.monotonic() < deadline:
        time.sleep(0.1)
    walled.caller(PUBLIC, audio=True, hold_ms=1800).done()
    walled.stop_recording()
    walled.assert_heard_by_the_relay()


def test_a_stranger_at_our_address_is_not_heard(walled: Walled) -> None:
    walled.coturn()
    walled.start(walled.yaml())
    walled.callee(PRIVATE, audio=True)
    caller = walled.caller(PUBLIC, audio=True, hold_ms=2500)
    stranger = inside(walled.namespaces, PUBLIC, lambda: udp(SIDES[PUBLIC].peers[1], 0))
    noise, tried = Tone(1700), 0
    for number in range(100):
        frame = noise.frame()
        for port in relayed_ports(walled):
            stranger.sendto(rtp_packet(number, number * 160, 77, frame), (COTURN, port))
            tried += 1
        time.sleep(0.02)
    assert tried > 50
    caller.done()
    walled.stop_recording()
    walled.assert_heard_by_the_relay()
    stranger.close()
    assert heard(walled._captures[PRIVATE].audio(SIDES[PRIVATE].peer), 1700) < 0.01


def relayed_ports(walled: Walled) -> list[int]:
    """The ports of the relay that are in use, as the SDP of the border has them."""
    text = walled.border.ask("calls")
    calls = cast("list[dict[str, object]]", text["calls"])
    explained = "".join(walled.border.explain(str(call["id"])) for call in calls)
    return [int(port) for port in set(re.findall(rf"{re.escape(COTURN)}:(\d+)", explained))]
