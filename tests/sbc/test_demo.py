"""The demonstration of `make run`: as a real process on loopback, and its parts by themselves."""

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.load import load
from config.model import Config
from sbc.demo import (
    DemoError,
    Outcome,
    audio_line,
    leaks,
    program,
    quickstart_path,
    scene_of,
    what_next,
    with_demo_settings,
)
from sbc.phone import Phone
from sbc.simulate import simulate
from sbc.tone import Heard
from tests.sbc.test_server import Ports, text

ROOT = Path(__file__).resolve().parents[2]
TWO_NETWORKS = """
networks:
  public: {address: 127.0.1.1, listen: [udp:5070], media_ports: 20000-29999}
  private: {address: 127.0.2.1, listen: [udp:5070], media_ports: 20000-29999}
trunks:
  pbx: {network: private, servers: ["sip:127.0.2.2:5080"]}
  carrier: {network: public, servers: ["sip:127.0.1.9:5090"]}
"""


def demo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    # Ports of its own: the quickstart's are fixed, and somebody may be trying it out on this machine.
    (folder / "demo.yaml").write_text(text(Ports(), folder))
    code = "from sbc.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--config", str(folder / "demo.yaml"), "--seconds", "1", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_once_shows_everything_and_ends_with_0(tmp_path: Path) -> None:
    with demo(tmp_path, "--once", "--ascii") as process:
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, output + errors
    assert errors == ""
    for part in (
        "alice hears: 180 Ringing",
        "1 s: ",
        "Ladder",
        "Hidden by the border",
        "INVITE from A to B",
        "Healthy: both directions carry audio.",
        "The call crossed the border: both hear each other.",
    ):
        assert part in output
    assert (
        len(re.findall(r"A -> B: \d+ of 50 packets, 0 lost, jitter [\d.]+ ms, 600 Hz tone found", output))
        == 1
    )
    assert (
        len(re.findall(r"B -> A: \d+ of 50 packets, 0 lost, jitter [\d.]+ ms, 1000 Hz tone found", output))
        == 1
    )
    assert "Serving on" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_on_until_ctrl_c_and_says_what_to_try(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if "write your own" in line:
                break
        assert "sbc explain --socket" in seen
        process.send_signal(number)
        output, errors = process.communicate(timeout=90)
    assert process.returncode == 0
    assert output.strip() == "stopped"
    folder = seen.partition("sbc explain --socket ")[2].partition("/control.sock")[0]
    assert folder and not Path(folder).exists()
    assert errors == ""


def test_a_port_in_use_is_a_sentence_and_1(tmp_path: Path) -> None:
    with demo(tmp_path) as first:
        assert first.stdout is not None
        while "write your own" not in first.stdout.readline():
            pass
        code = "from sbc.cli import main; main()"
        second = subprocess.run(
            [sys.executable, "-c", code, "demo", "--config", str(tmp_path / "demo.yaml"), "--once"],
            cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=90)
    assert second.returncode == 1
    assert "the address is in use by another program" in second.stderr
    assert "Traceback" not in second.stderr


def test_the_quickstart_has_a_place_for_both_phones() -> None:
    scene = scene_of(load(quickstart_path()))
    assert scene.caller[0].startswith("127.0.1.")
    assert scene.callee[0].startswith("127.0.2.")


def config(routes: str) -> Config:
    return load(TWO_NETWORKS + f"routes: [{routes}]\n")


@pytest.mark.parametrize(
    ("routes", "caller"),
    [
        ("{from: public, to: pbx}", ("127.0.1.2", 0)),
        ("{from: any, to: pbx}", ("127.0.1.2", 0)),
        ("{from: carrier, to: pbx}", ("127.0.1.9", 5090)),
        ("{from: private, to: pbx}, {from: public, to: pbx}", ("127.0.1.2", 0)),
    ],
)
def test_the_caller_stands_where_the_route_begins(routes: str, caller: tuple[str, int]) -> None:
    scene = scene_of(config(routes))
    assert scene.caller == caller
    assert (scene.callee, scene.sbc) == (("127.0.2.2", 5080), ("127.0.1.1", 5070))


def test_a_softphone_on_this_machine_may_call_the_quickstart() -> None:
    quickstart = load(quickstart_path())
    found = simulate(quickstart, "public", "sip:bob@127.0.1.1:15060", "127.0.0.1:40000", "me")
    assert found.outcome() == ("Passed to pbx in network private, by udp to 127.0.2.2:15060, as bob.")
    assert "on this machine; it needs no account" in what_next(scene_of(quickstart), quickstart, "c-1", "sbc")


def test_the_commands_can_be_copied() -> None:
    quickstart = with_demo_settings(load(quickstart_path()), "/tmp/x")
    text = what_next(scene_of(quickstart), quickstart, "c-12345678", "bin/sbc")
    assert "\n  bin/sbc explain --socket /tmp/x/control.sock c-12345678\n" in text


def test_a_program_that_the_shell_does_not_find_is_called_by_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert program(".venv/bin/sbc") == ".venv/bin/sbc"
    assert program("-c") == "sbc"
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/sbc")
    assert program(".venv/bin/sbc") == "sbc"


def test_where_only_a_trunk_may_call_the_softphone_has_to_be_there() -> None:
    narrow = config("{from: carrier, to: pbx}")
    assert "that is bound to 127.0.1.9" in what_next(scene_of(narrow), narrow, "c-1", "sbc")


def test_a_configuration_without_a_way_across_is_a_sentence() -> None:
    with pytest.raises(DemoError, match="no route leads from one network to a trunk in another"):
        scene_of(config("{from: private, to: pbx}"))


def test_the_demonstration_touches_nothing_outside_its_folder() -> None:
    changed = with_demo_settings(load(quickstart_path()), "/tmp/x")
    assert changed.control.socket == "/tmp/x/control.sock"
    assert (changed.log.trace, changed.log.file, changed.log.cdr) == ("full", None, "/tmp/x/cdr.jsonl")


def heard(packets: int = 50, share: float = 0.99) -> Heard:
    return Heard(600, packets, 0, 0.5, share)


@pytest.mark.parametrize(
    ("a_to_b", "b_to_a", "good"),
    [
        (heard(), heard(49), True),
        (heard(), heard(40), False),
        (heard(), heard(share=0.2), False),
        (heard(0, 0.0), heard(), False),
    ],
)
def test_good_means_both_tones_and_nearly_all_packets(a_to_b: Heard, b_to_a: Heard, good: bool) -> None:
    assert Outcome(a_to_b, b_to_a, 50, (), ()).good is good


def test_the_audio_line_says_what_was_not_found() -> None:
    assert "NOT found" in audio_line("A -> B", heard(share=0.1), 50)


def test_a_leak_is_named() -> None:
    alice = Phone("alice", "127.0.1.2", 0, 600, random.Random(1).getrandbits(32).__int__)
    bob = Phone("bob", "127.0.2.2", 0, 1000, random.Random(2).getrandbits(32).__int__)
    clean = Outcome(heard(), heard(), 50, (b"INVITE 127.0.1.1",), (b"INVITE 127.0.2.1",))
    assert leaks(clean, alice, bob) == []
    leaking = Outcome(heard(), heard(), 50, (b"Contact: 127.0.2.2",), (b"User-Agent: built-in phone alice",))
    assert leaks(leaking, alice, bob) == [
        "A saw the other side's address in 1 of 1 messages",
        "B saw the other side's user agent in 1 of 1 messages",
    ]
