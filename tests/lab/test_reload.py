"""Reloads that move what calls stand on: SIPp holds calls over them, hears and hangs up, and calls what is new."""

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import sipp
from tests.lab.border import Border, configuration
from tests.lab.capture import UDP
from tests.lab.lab import OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES
from tests.lab.sipp import Words
from tests.lab.talk import assert_no_traceback, await_calls, inside, packets_of, udp

pytestmark = pytest.mark.lab

NEW = {PUBLIC: ("203.0.113.7", "2001:db8:a::7"), PRIVATE: ("10.77.0.7", "fd77:0:0:b::7")}
"""Addresses that the border moves to."""
PORTS = {PUBLIC: 5070, PRIVATE: 5080}
GAP_S = 2.0


@pytest.fixture(autouse=True)
def no_traceback(lab: Lab) -> Iterator[None]:
    """Whatever a test does, the program must not fall over it."""
    yield
    assert_no_traceback(lab.border)


def configured(lab: Lab, more: str = "media: {workers: 2}\n", **timers: object) -> str:
    return configuration(lab.namespaces, timers=timers, more=more)


def moved(yaml: str, workers: int = 1) -> str:
    """The same border at other addresses and ports, with other workers."""
    for side in SIDES.values():
        here, here6 = NEW[side.name]
        yaml = yaml.replace(f"address: {side.border}\n", f"address: {here}\n")
        yaml = yaml.replace(f'address6: "{side.border6}"', f'address6: "{here6}"')
        first, _, rest = yaml.partition(f"  {side.name}:\n")
        rest = rest.replace("[udp:5060, tcp:5060]", f"[udp:{PORTS[side.name]}, tcp:{PORTS[side.name]}]", 1)
        yaml = f"{first}  {side.name}:\n{rest}"
    return yaml.replace("workers: 2", f"workers: {workers}")


def with_addresses(lab: Lab) -> None:
    """The host of the border has the addresses before it uses them."""
    for side, (here, here6) in NEW.items():
        lab.namespaces.run(SBC, "ip", "addr", "add", f"{here}/24", "dev", f"to-{side}")
        lab.namespaces.run(SBC, "ip", "addr", "add", f"{here6}/64", "dev", f"to-{side}", "nodad")


def sip_sockets(lab: Lab, listening: bool = False) -> set[str]:
    """Local addresses of SIP sockets of the border: all, or those that wait for peers."""
    kinds = "-Hnltu" if listening else "-Hntua"
    rows = [
        line.split() for line in lab.namespaces.run(SBC, "ss", kinds).splitlines() if "TIME-WAIT" not in line
    ]
    local = [row[4] for row in rows]
    return {one for one in local if int(one.rpartition(":")[2]) in (5060, *PORTS.values())}


def hold(lab: Lab, by_caller: bool, transport: str, family: int, hold_ms: int) -> list[sipp.Sipp]:
    """A call with audio from public to private that one of them ends after `hold_ms`."""
    scenarios = ("uas_call", "uac_call") if by_caller else ("uas_call_release", "uac_call_released")
    callee = lab.callee(
        PRIVATE, scenarios[0], transport=transport, family=family, audio=True, hold_ms=hold_ms
    )
    caller = lab.caller(PUBLIC, scenarios[1], transport=transport, family=family, audio=True, hold_ms=hold_ms)
    return [callee, caller]


def call_anew(lab: Lab, transport: str, family: int) -> None:
    """A call from public to private by the new listeners, through to its end."""
    host = NEW[PUBLIC][family == 6]
    target = f"[{host}]:{PORTS[PUBLIC]}" if family == 6 else f"{host}:{PORTS[PUBLIC]}"
    callee = sipp.callee(
        lab.namespaces, PRIVATE, "uas_call", local=lab.host(PRIVATE, family, 1), transport=transport,
        words=Words(agent="second callee", caller="bob"), name="second-callee",
    )  # fmt: skip
    caller = sipp.caller(
        lab.namespaces, PUBLIC, "uac_call", target, local=lab.host(PUBLIC, family, 1), transport=transport,
        number="2000", words=Words(agent="second caller", hold_ms=200), name="second-caller",
    )  # fmt: skip
    caller.done()
    callee.done()


def media_times(lab: Lab, side: str) -> list[float]:
    """When RTP arrived at the first user agent of a side."""
    peers = {SIDES[side].peers[0], SIDES[side].peers6[0]}
    own = {SIDES[side].border, SIDES[side].border6}
    return [
        packet.at
        for packet in packets_of(lab, side)
        if packet.protocol == UDP and packet.destination[0] in peers and packet.source[0] in own
        and packet.source[1] >= 20000 and packet.source[1] % 2 == 0
    ]  # fmt: skip


def second_server(yaml: str, lab: Lab, transport: str, family: int) -> str:
    """Calls to 2000 go to the second user agent of the private side."""
    host = lab.host(PRIVATE, family, 1)
    uri = f"sip:[{host}]:5060" if family == 6 else f"sip:{host}:5060"
    trunk = f'  second: {{network: private, servers: ["{uri};transport={transport}"]}}\n'
    route = '  - {from: carrier, match: "^2000$", to: second}\n'
    pbx = f"sip:[{lab.host(PRIVATE, 6)}]:5060" if family == 6 else f"sip:{lab.host(PRIVATE)}:5060"
    yaml = yaml.replace(f"sip:{lab.host(PRIVATE)}:5060;transport=udp", f"{pbx};transport={transport}")
    return yaml.replace("trunks:\n", f"trunks:\n{trunk}").replace("routes:\n", f"routes:\n{route}")


@pytest.mark.parametrize(
    ("transport", "family", "by_caller"),
    [
        ("udp", 4, True),
        ("udp", 4, False),
        ("tcp", 4, True),
        ("tcp", 4, False),
        ("udp", 6, False),
        ("tcp", 6, True),
    ],
)
def test_a_call_is_held_over_a_reload_that_moves_everything(
    lab: Lab, transport: str, family: int, by_caller: bool
) -> None:
    yaml = second_server(configured(lab), lab, transport, family)
    border = lab.start(yaml)
    with_addresses(lab)
    workers = border.pids()[1:]
    parties = hold(lab, by_caller, transport, family, hold_ms=7000)
    (call,) = await_calls(border, "up")
    time.sleep(1.0)
    before = sip_sockets(lab)
    border.file.write_text(moved(yaml))
    changes = border.ask("reload")["changes"]
    at = time.time()
    assert isinstance(changes, list) and any("networks.public.address: " in line for line in changes), changes
    listening = sip_sockets(lab, listening=True)
    assert {f"{NEW[side][0]}:{PORTS[side]}" for side in SIDES} <= listening
    held = {one for one in sip_sockets(lab) if one.endswith(":5060")}
    assert held and held <= before, "the call keeps its sockets"
    call_anew(lab, transport, family)
    assert await_calls(border, "up") == [call]
    time.sleep(1.5)
    for party in parties:
        party.done()
    left = border.leftovers()
    assert left == {}, f"{left}\n{border.process.text[-3000:]}"
    deadline = time.monotonic() + 20
    while any(one.endswith(":5060") for one in sip_sockets(lab)):
        assert time.monotonic() < deadline, sip_sockets(lab)
        time.sleep(0.1)
    assert sip_sockets(lab, listening=True) == listening - {one for one in listening if one.endswith(":5060")}
    deadline = time.monotonic() + 20
    while set(workers) & set(border.pids()):
        assert time.monotonic() < deadline, "the workers of before are still there"
        time.sleep(0.1)
    assert len(border.pids()) == 2
    lab.stop_recording()
    lab.assert_heard(family, family)
    for side in SIDES:
        times = media_times(lab, side)
        gaps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(times)]
        worst, when = max(gaps)
        after = sum(one > at for one in times)
        print(
            f"{side}: {len(times)} packets, {after} after the reload; gap {worst:.3f} s at {when - at:+.2f} s"
        )
        assert after > 50
        assert worst < GAP_S
    leaked = lab.leaks()
    assert not leaked, "\n".join(leaked)
    for side, (here, here6) in NEW.items():
        for text in lab.messages(OTHER[side]):
            assert here not in text and here6 not in text, f"{side} seen on {OTHER[side]}:\n{text}"
    assert border.cdr.read_text().count('"outcome":"answered"') == 2
    assert border.stop() == 0


def test_a_reload_that_cannot_bind_changes_nothing(lab: Lab) -> None:
    yaml = configured(lab)
    border = lab.start(yaml)
    with_addresses(lab)
    parties = hold(lab, True, "udp", 4, hold_ms=4000)
    await_calls(border, "up")
    before, pids = sip_sockets(lab), border.pids()
    taken = inside(lab.namespaces, SBC, lambda: udp(NEW[PRIVATE][0], PORTS[PRIVATE]))
    with taken:
        border.file.write_text(moved(yaml).replace(NEW[PUBLIC][1], "2001:db8:a::99"))
        os.kill(border.process.pid, signal.SIGHUP)
        border.process.await_text("reload refused")
        place = f"{NEW[PRIVATE][0]}:{PORTS[PRIVATE]}: the address is in use by another program (EADDRINUSE)"
        border.process.await_text(place)
        text = border.process.text
        assert f"{border.file}:12:" in next(line for line in text.splitlines() if place in line)
        assert "networks.public.address6: cannot listen on udp:[2001:db8:a::99]" in text
        assert "the address is not on this host (EADDRNOTAVAIL)" in text
    assert "INFO reloaded" not in text
    assert (sip_sockets(lab), border.pids()) == (before, pids)
    for party in parties:
        party.done()
    callee = lab.callee(PRIVATE, port=5060)
    lab.caller(PUBLIC, port=5066).done()
    callee.done()
    assert border.leftovers() == {}
    lab.stop_recording()
    assert not lab.leaks()
    assert border.process.text.count(" ERROR ") == border.process.text.count(" ERROR reload refused ") == 4
    # With the port free, the same file is taken.
    border.file.write_text(moved(yaml))
    border.ask("reload")
    assert border.stop() == 0
    assert sip_sockets(lab) == set()


def test_sigterm_after_a_reload_ends_the_calls_of_before_on_their_listeners(lab: Lab) -> None:
    yaml = configured(lab, drain_s=0.5)
    border = lab.start(yaml)
    with_addresses(lab)
    callee = lab.callee(PRIVATE, "uas_call", calls=2, audio=True)
    caller = lab.caller(PUBLIC, "uac_call_released", calls=2, audio=True)
    await_calls(border, "up", 2)
    border.file.write_text(moved(yaml))
    border.ask("reload")
    time.sleep(0.5)
    pids = border.pids()
    os.kill(border.process.pid, signal.SIGTERM)
    caller.done()
    callee.done()
    assert border.process.wait(30) == 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert lab.namespaces.run(SBC, "ss", "-Hnua").strip() == ""
    lab.stop_recording()
    for side in SIDES:
        byes = {text for text in lab.messages(side) if text.startswith("BYE ")}
        assert len(byes) == 2
    assert border.cdr.read_text().count('"cause":"drain"') == 2


def test_calls_do_not_notice_reloads_that_do_not_touch_their_listeners(lab: Lab) -> None:
    """100 calls, and a reload every 0.3 s that moves the control socket, the workers and listeners beside theirs."""
    # On a busy machine SIPp and we are late, which is no sign of anything lost: nobody repeats or refuses for that.
    more = "media: {workers: 2}\nlimits: {queue_age_ms: 30000}\n"
    yaml = configured(lab, more, t1_ms=350, t2_ms=1400)
    border = lab.start(yaml)
    callee = lab.callee(PRIVATE, "uas_call", calls=100, ring_ms=20)
    caller = lab.caller(PUBLIC, calls=100, rate=20, hold_ms=400)
    reloads = 0
    while caller.process.running:
        reloads += 1
        extra = f"udp:5060, tcp:5060, udp:{5200 + reloads % 7}, tcp:{5300 + reloads % 5}"
        text = yaml.replace("udp:5060, tcp:5060", extra).replace("workers: 2", f"workers: {1 + reloads % 2}")
        where = str(lab.namespaces.directory / f"control-{reloads % 3}.sock")
        border.file.write_text(text.replace(f"{lab.namespaces.directory}/control.sock", where))
        border.ask("reload")
        border.socket = where
        Border._await_ready(border, 10)
        time.sleep(0.3)
    caller.done()
    callee.done()
    print(f"{reloads} reloads in {100} calls")
    assert reloads >= 5
    deadline = time.monotonic() + 30
    while len(border.pids()) > 3:
        assert time.monotonic() < deadline, border.pids()
        time.sleep(0.2)
    lab.finish()
    sent = [
        packet
        for side in SIDES
        for packet in packets_of(lab, side)
        if packet.protocol == UDP and packet.destination == (SIDES[side].border, 5060)
    ]
    assert len(sent) >= 600
    assert border.stats()["transport.datagrams_received"] >= len(sent), "none was lost"
    assert border.stop() == 0
    assert sip_sockets(lab) == set()


def test_new_calls_by_a_listener_that_was_taken_away_are_told_so(lab: Lab) -> None:
    yaml = configured(lab)
    border = lab.start(yaml)
    with_addresses(lab)
    parties = hold(lab, True, "udp", 4, hold_ms=4000)
    await_calls(border, "up")
    border.file.write_text(moved(yaml))
    border.ask("reload")
    lab.caller(PUBLIC, "uac_refused", status=503, port=5066).done()
    with pytest.raises(OSError, match="refused"):
        inside(
            lab.namespaces, PUBLIC, lambda: socket.create_connection((SIDES[PUBLIC].border, 5060), timeout=5)
        )
    for party in parties:
        party.done()
    assert border.leftovers(refused=1) == {}
    assert border.ask("stats")["refused:listener-closing"] == 1
    deadline = time.monotonic() + 45
    while any(one.endswith(":5060") for one in sip_sockets(lab)):
        assert time.monotonic() < deadline, sip_sockets(lab)
        time.sleep(0.1)
    assert border.stop() == 0
