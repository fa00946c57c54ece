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
from tests.lab.capture import Capture
from tests.lab.homes import Street
from tests.lab.lab import FOUND, HZ, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES, Process, obstacle
from tests.lab.sound import heard
from tests.lab.talk import inside, udp

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine_with_coturn")]

RELAY = "relay"
COTURN, GATE = "192.0.2.20", "192.0.2.1"
SECRET = "first we take manhattan"
_FIREWALL = f"""
table ip wall {{
  chain in {{
    type filter hook input priority filter; policy accept;
    iifname "to-public" udp sport {{ 5060, 5062 }} accept
    iifname "to-public" ip saddr {COTURN} udp sport 3478 accept
    iifname "to-public" meta l4proto udp drop
  }}
  chain out {{
    type filter hook output priority filter; policy accept;
    oifname "to-public" udp sport 5060 accept
    oifname "to-public" ip daddr {COTURN} udp dport 3478 accept
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
    """A lab whose border reaches SIP and coturn on the public side, and nothing else."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.street = Street(directory)
        self.namespaces = self.street

    def __enter__(self) -> "Walled":
        super().__enter__()
        street = self.street
        street.add(RELAY)
        street.cable(PUBLIC, "to-relay", RELAY, "eth0")
        for namespace, address, device in ((PUBLIC, GATE, "to-relay"), (RELAY, COTURN, "eth0")):
            street.run(namespace, "ip", "address", "add", f"{address}/24", "dev", device)
        street.run(PUBLIC, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        street.run(RELAY, "ip", "route", "add", "default", "via", GATE)
        street.run(SBC, "ip", "route", "add", f"{COTURN}/32", "via", SIDES[PUBLIC].peer)
        street.run(SBC, "nft", _FIREWALL)
        self._at_relay = Capture(street, RELAY)
        return self

    def stop_recording(self) -> None:
        """That of the relay too."""
        super().stop_recording()
        self._at_relay.stop()

    def assert_heard_by_the_relay(self) -> None:
        """Each side hears the other, and the border exchanges nothing but SIP with the public side itself."""
        private, public = SIDES[PRIVATE].peer, SIDES[PUBLIC].peer
        assert heard(self._captures[PRIVATE].audio(private), HZ[PUBLIC]) > FOUND
        assert heard(self._at_relay.audio(public), HZ[PRIVATE]) > FOUND
        ours = SIDES[PUBLIC].border
        media = [
            {packet.source[0], packet.destination[0]}
            for packet in self._captures[PUBLIC].packets()
            if 5060 not in (packet.source[1], packet.destination[1])
        ]
        assert len(media) > 100
        assert all(ends == {ours, COTURN} for ends in media)

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
                    COTURN,
                    "--relay-ip",
                    COTURN,
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
        process.await_text(f"UDP listener opened on: {COTURN}:3478")
        return process

    def yaml(self, account: str = f'secret: "{SECRET}"') -> str:
        """The usual configuration, with media of the public network by the relay."""
        public = SIDES[PUBLIC]
        turn = f'    turn: {{server: "turn:{COTURN}", {account}}}\n'
        text = configuration(self.namespaces)
        return (
            text.replace(f'    address6: "{public.border6}"\n', turn, 1)
            .replace("    media_ports: 20000-21999\n", "", 1)
            .replace(f', "{public.prefix6}"', "", 1)
        )


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
