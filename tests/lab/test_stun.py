"""Behind 1:1 NAT, as in a cloud: coturn tells the border its address, calls go by it, and a new one is noticed.

    public ── cloud (nftables, 203.0.113.1 <-> 172.31.0.10) ── sbc ── private

The border has no address that its public peers could reach, and none of theirs on a cable of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.border import COMMAND, ROOT, configuration
from tests.lab.handset import Handset
from tests.lab.homes import HOUSE, LOTS, Home, Nat, Street, Village
from tests.lab.lab import FOUND, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES, Process, obstacle
from tests.lab.registrar import DOMAIN, PASSWORDS

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine_with_coturn")]

CLOUD = "cloud"
INSIDE, ROUTER = "172.31.0.10", "172.31.0.1"
OUTSIDE, OTHER_OUTSIDE = SIDES[PUBLIC].border, "203.0.113.2"
COTURN = SIDES[PUBLIC].peers[2]
SECRET = "first we take manhattan"

_NAT = """
add table ip cloud
delete table ip cloud
table ip cloud {{
  chain inward {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {outside} dnat to {inside}
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {inside} snat to {outside}
  }}
}}
"""

_ALLOCATE = """
import asyncio, sys, aioice.turn
async def main():
    transport, _ = await aioice.turn.create_turn_endpoint(
        asyncio.DatagramProtocol, server_addr=(sys.argv[1], 3478), username=sys.argv[2], password=sys.argv[3])
    print("allocated", transport.get_extra_info("sockname")[0])
    transport.close()
    await asyncio.sleep(0.1)
asyncio.run(main())
"""


@pytest.fixture(scope="session")
def machine_with_coturn(machine: None) -> None:
    """Skips when there is no coturn or no nftables."""
    reason = obstacle("turnserver", "nft")
    if reason:
        pytest.skip(reason)


class Cloud(Lab):
    """A lab whose border sits behind 1:1 NAT."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.street = Street(directory)
        self.namespaces = self.street

    def __enter__(self) -> "Cloud":
        super().__enter__()
        street, device = self.street, f"to-{PUBLIC}"
        street.add(CLOUD)
        # The public end of the border's cable becomes the cloud's; what is behind it has another address.
        street.run(SBC, "ip", "link", "set", device, "netns", street.full_name(CLOUD))
        street.run(CLOUD, "ip", "link", "set", device, "up")
        for address in (OUTSIDE, OTHER_OUTSIDE):
            street.run(CLOUD, "ip", "address", "add", f"{address}/24", "dev", device)
        street.cable(CLOUD, "inside", SBC, "eth1")
        street.run(CLOUD, "ip", "address", "add", f"{ROUTER}/24", "dev", "inside")
        street.run(SBC, "ip", "address", "add", f"{INSIDE}/24", "dev", "eth1")
        street.run(SBC, "ip", "route", "add", "default", "via", ROUTER)
        street.run(CLOUD, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.known_as(OUTSIDE)
        return self

    def known_as(self, outside: str) -> None:
        """Give the border another public address."""
        self.street.run(CLOUD, "nft", _NAT.format(outside=outside, inside=INSIDE))

    def coturn(self) -> Process:
        """A TURN server, which is a STUN server too, on the public side."""
        process = self.street.start(
            PUBLIC,
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
                *("--realm", "example.org", "--use-auth-secret", "--static-auth-secret", SECRET),
            ],
        )
        process.await_text(f"UDP listener opened on: {COTURN}:3478")
        return process

    def yaml(self, *, advertise: str = "auto", more: str = "") -> str:
        """The usual configuration, on what the border has here."""
        text = configuration(self.street, more=more)
        public = SIDES[PUBLIC]
        stun = f"advertise: {advertise}\n    stun: true\n    stun_servers: {COTURN}"
        return (
            text.replace(f"address: {public.border}\n", f"interface: eth1\n    {stun}\n", 1)
            .replace(f'    address6: "{public.border6}"\n', "", 1)
            .replace(f', "{public.prefix6}"', "", 1)
        )


@pytest.fixture
def cloud(machine_with_coturn: None, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud without a border yet."""
    with Cloud(tmp_path) as fresh:
        yield fresh


def call(cloud: Cloud, origin: str) -> None:
    callee = cloud.callee(PRIVATE if origin == PUBLIC else PUBLIC, audio=True)
    caller = cloud.caller(origin, audio=True, hold_ms=1800)
    caller.done()
    callee.done()


@pytest.mark.parametrize("origin", [PUBLIC, PRIVATE])
def test_a_call_goes_by_the_address_that_coturn_sees(cloud: Cloud, origin: str) -> None:
    cloud.coturn()
    border = cloud.start(cloud.yaml())
    assert f"address={OUTSIDE}" in border.process.text
    call(cloud, origin)
    cloud.finish()
    cloud.assert_heard()
    messages = cloud.messages(PUBLIC)
    ours = [message for message in messages if f"c=IN IP4 {OUTSIDE}" in message]
    assert ours, "our SDP has the address that is seen from outside"
    assert not [message for message in messages if INSIDE in message]


def test_without_it_nothing_is_heard_from_outside(cloud: Cloud) -> None:
    """What the tests above would see if the inner address were told."""
    border = cloud.start(cloud.yaml(advertise=INSIDE).replace(f"    stun_servers: {COTURN}\n", ""))
    assert "warning" in border.process.text and f"{INSIDE} is private" in border.process.text
    cloud.callee(PRIVATE, audio=True)
    cloud.caller(PUBLIC, audio=True, hold_ms=1800)
    time.sleep(3)
    cloud.stop_recording()
    with pytest.raises(AssertionError, match="private does not hear public"):
        cloud.assert_heard()


def test_another_address_is_noticed_and_new_calls_go_by_it(cloud: Cloud) -> None:
    cloud.coturn()
    border = cloud.start(cloud.yaml())
    cloud.known_as(OTHER_OUTSIDE)
    border.ask("reload")
    border.process.await_text(f"address={OTHER_OUTSIDE}")
    assert f"was={OUTSIDE}" in border.process.text
    call(cloud, PRIVATE)
    cloud.stop_recording()
    messages = cloud.messages(PUBLIC)
    assert [message for message in messages if f"c=IN IP4 {OTHER_OUTSIDE}" in message]
    assert not [message for message in messages if f"c=IN IP4 {OUTSIDE}" in message]


def test_the_border_starts_without_a_stun_server_and_finds_its_address_later(cloud: Cloud) -> None:
    border = cloud.start(cloud.yaml())
    assert "own address not known yet" in border.process.text
    assert f"told={INSIDE}" in border.process.text
    cloud.coturn()
    border.process.await_text(f"address={OUTSIDE}")


def test_a_stun_client_of_coturn_asks_the_border(cloud: Cloud) -> None:
    """turnutils_stunclient sends bare headers of 20 bytes: what answered them would be a reflector."""
    cloud.coturn()
    border = cloud.start(cloud.yaml())
    with pytest.raises(subprocess.TimeoutExpired):
        cloud.street.run(PUBLIC, "turnutils_stunclient", "-p", "5060", OUTSIDE, timeout_s=2)
    assert border.stats()["stun.dropped"] > 0
    ours = (
        "import asyncio, sys; from sbc.own_address import ask;"
        "print(asyncio.run(ask([(sys.argv[1], 5060)], sys.argv[2])).mapped)"
    )
    seen = cloud.street.run(
        PUBLIC, "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", ours, OUTSIDE, SIDES[PUBLIC].peers[1]
    )
    assert SIDES[PUBLIC].peers[1] in seen


def test_coturn_takes_the_credentials_that_we_issue(cloud: Cloud) -> None:
    cloud.coturn()
    file = cloud.directory / "turn.yaml"
    phones = "phones: {network: public, registrar: pbx, turn: {servers: 'turn:%s', secret: '%s'}}\n"
    file.write_text(cloud.yaml(more=phones % (COTURN, SECRET)))
    issued = subprocess.run(
        [*COMMAND, "turn-credentials", str(file), "--user", "alice", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = json.loads(issued.stdout)

    def allocate(username: str, password: str) -> str:
        return cloud.street.run(SBC, sys.executable, "-c", _ALLOCATE, COTURN, username, password)

    assert allocate(found["username"], found["password"]) == f"allocated {COTURN}\n"
    for username, password in (
        (found["username"], "guessed"),
        (found["username"].replace("alice", "bob"), found["password"]),
        ("1:alice", found["password"]),
    ):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            allocate(username, password)
        assert "401" in refused.value.stderr


class Asker(Handset):
    """A baresip that asks a STUN server what its NAT makes of its media address."""

    def switch_on(self) -> None:
        """Start it, with the module for that."""
        with (self.directory / "config").open("a") as config:
            config.write("module stun.so\n")
        accounts = self.directory / "accounts"
        stun = f';medianat=stun;stunserver="stun:{OUTSIDE}:5060"\n'
        accounts.write_text(accounts.read_text().rstrip() + stun)
        super().switch_on()


def test_a_phone_behind_nat_asks_the_border_and_writes_what_it_learns(
    machine_with_coturn: None, machine_with_phones: None, tmp_path: Path
) -> None:
    """baresip sends SOFTWARE with its requests, so they are long enough for an answer."""
    with Village(tmp_path) as village:
        home = village.home("a")
        phones = (
            f"phones: {{network: public, registrar: local, domain: {DOMAIN}, store: null,"
            f" users: {{alice: {{password: {PASSWORDS['alice']}}}}}}}\n"
        )
        text = configuration(village.namespaces, nat="far-end", more=phones)
        text = text.replace("    nat: far-end\n", "    nat: far-end\n    stun: true\n")
        text = text.replace("{from: carrier, to: pbx}", "{from: phones, to: pbx}")
        border = village.start(text.replace(f'from: ["{SIDES[PUBLIC].prefix}"', f'from: ["{COTURN}/32"'))
        callee = village.callee(PRIVATE, audio=True, hold_ms=2500)
        alice = Asker(village.namespaces, home.room(), HOUSE[0], "alice", f"{OUTSIDE}:5060")
        alice.await_registered()
        alice.call("1000")
        callee.done()
        assert border.stats()["stun.answered"] >= 2, "for RTP and for RTCP"
        village.stop_recording()
        (invite, *_) = [one for one in village.messages(PUBLIC) if one.startswith("INVITE")]
        assert f"c=IN IP4 {home.address}" in invite.partition("\r\nm=audio")[2]
        assert alice.hears(1000) > FOUND


def test_phones_at_home_and_the_border_in_a_cloud(
    cloud: Cloud, machine_with_phones: None, machine_with_coturn: None
) -> None:
    """NAT at both ends: the border learns its address, the phones are where their packets come from."""
    cloud.coturn()
    street = cloud.street
    street.run(PUBLIC, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    street.run(CLOUD, "ip", "route", "add", "default", "via", SIDES[PUBLIC].peer)
    users = ", ".join(f"{name}: {{password: {PASSWORDS[name]}}}" for name in ("alice", "bob"))
    phones = (
        f"phones: {{network: public, registrar: local, domain: {DOMAIN}, store: null, users: {{{users}}}}}\n"
    )
    yaml = cloud.yaml(more=phones).replace("nat: none", "nat: far-end", 1)
    yaml = yaml.replace("{from: carrier, to: pbx}", "{from: phones, to: phones, when: registered}")
    cloud.start(yaml.replace(f'from: ["{SIDES[PUBLIC].prefix}"', f'from: ["{COTURN}/32"'))
    handsets = {}
    for name, lot, nat in (("alice", "a", Nat.CONE), ("bob", "b", Nat.SYMMETRIC)):
        home = Home(street, LOTS[lot], nat)
        handsets[name] = Handset(street, home.room(), HOUSE[0], name, f"{OUTSIDE}:5060")
        handsets[name].await_registered()
    alice, bob = handsets["alice"], handsets["bob"]
    alice.call("bob")
    time.sleep(4)
    alice.hang_up()
    bob.await_ended()
    assert alice.hears(bob.hz) > FOUND
    assert bob.hears(alice.hz) > FOUND
    cloud.stop_recording()
    assert not [message for message in cloud.messages(PUBLIC) if INSIDE in message]
