"""The command line: exit statuses, sentences instead of tracebacks, and what it does not load."""

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nat.stun import binding_success, parse
from sbc import cli

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
networks:
  public: {address: 127.0.1.1, listen: [udp:5060], media_ports: 20000-29999}
  private: {address: 127.0.2.1, listen: [udp:5060], media_ports: 20000-29999}
trunks:
  pbx: {network: private, servers: ["sip:127.0.2.20"]}
routes:
  - {from: public, match: "^1", to: pbx}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.yaml").write_text(GOOD)
    return str(tmp_path / "good.yaml")


def test_check_says_ok_with_a_summary(good: str) -> None:
    result = run("check", good)
    assert result.exit_code == 0
    assert result.stdout == (
        f"{good}: ok: networks public 127.0.1.1, private 127.0.2.1; 1 trunk, 1 route, up to 1000 calls\n"
    )


def test_check_reports_every_mistake_of_every_file(good: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD.replace("to: pbx", "to: pbs") + "limit: {}\n")
    result = run("check", str(bad), good, str(tmp_path / "missing.yaml"))
    assert result.exit_code == 1
    assert f"{bad}:8:" in result.stderr
    assert f"{bad}:9:1: limit: " in result.stderr
    assert "there is no such file" in result.stderr
    assert f"{good}: ok" in result.stdout


def test_check_warns_of_addresses_that_this_host_does_not_have(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(GOOD.replace("127.0.1.1", "192.0.2.77"))
    result = run("check", str(elsewhere))
    assert result.exit_code == 0
    assert "warning: networks.public: 192.0.2.77: no interface of this host has this address" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["calls", "--once"], ["explain", "c-1"], ["reload"], ["hangup", "c-1"], ["trunks"], ["stats"]],
)
def test_without_an_sbc_every_command_says_how_to_start_one(arguments: list[str], tmp_path: Path) -> None:
    result = run(*arguments, "--socket", str(tmp_path / "none.sock"))
    assert result.exit_code == 1
    assert f"no SBC is running on {tmp_path}/none.sock; start it with sbc run FILE" in str(result.exception)


def test_simulate_shows_decisions_and_both_messages(good: str) -> None:
    result = run(
        "simulate", good, "--from", "public", "--to", "sip:100@example.com", "--source", "127.0.1.9:5062"
    )
    assert result.exit_code == 0
    assert "routes[0]" in result.stdout
    assert "< INVITE sip:100@example.com SIP/2.0" in result.stdout
    assert "> INVITE sip:100@127.0.2.20" in result.stdout


def test_simulate_says_why_a_call_is_refused(good: str) -> None:
    result = run("simulate", good, "--from", "public", "--to", "sip:200@example.com", "--json")
    data = json.loads(result.stdout)
    assert data["status"] == 404
    assert data["verdict"][0].startswith("Rejected with 404: no rule of routes matched")
    assert len(data["sent"]) == 2


def test_simulate_over_tcp_from_ipv6(tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(
        GOOD.replace(
            "{address: 127.0.1.1, listen: [udp:5060]", '{address: "::1", listen: [udp:5060, tcp:5060]'
        )
    )
    result = run(
        "simulate",
        str(both),
        "--from",
        "public",
        "--to",
        "sip:100@x",
        "--source",
        "[2001:db8::9]:5070",
        "--tcp",
    )
    assert result.exit_code == 0
    assert "< Via: SIP/2.0/TCP [2001:db8::9]:5070;" in result.stdout
    assert "Passed to pbx in network private, by udp to 127.0.2.20:5060, as 100." in result.stdout


def test_names_are_left_alone_and_both_commands_say_so(tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(GOOD.replace("sip:127.0.2.20", "sip:pbx.example.invalid"))
    checked = run("check", str(named))
    assert checked.exit_code == 0
    assert "note: names of servers were not looked up (--resolve does): pbx.example.invalid" in checked.stderr
    result = run("simulate", str(named), "--from", "public", "--to", "sip:100@x")
    assert "pbx.example.invalid was not looked up; udp 198.51.100.2:5060" in result.stdout
    assert "> INVITE sip:100@pbx.example.invalid" in result.stdout


def test_check_refuses_what_clashes_behind_an_interface(tmp_path: Path) -> None:
    clash = tmp_path / "clash.yaml"
    clash.write_text(GOOD.replace("address: 127.0.1.1", "interface: lo").replace("127.0.2.1,", "127.0.0.1,"))
    result = run("check", str(clash))
    assert result.exit_code == 1
    assert "is already taken by networks.public.listen[0]" in result.stderr
    assert ": ok: " not in result.stdout


@pytest.mark.parametrize("command", [[], ["check"], ["run"], ["simulate"]])
def test_help_says_what_the_exit_status_means(command: list[str]) -> None:
    assert "Exit status: 0" in run(*command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "publix", "--to", "sip:1@x"], "no network 'publix'"),
        (
            ["--from", "pbx", "--to", "sip:1@x"],
            "'pbx' is a trunk: give its network, --from private, and --source",
        ),
        (["--from", "public", "--to", "http://x"], "'http://x' is no sip:, sips: or tel: URI"),
        (["--from", "public", "--to", "sip:1@x", "--source", "1.2.3.4:x"], "the port must be 1 to 65535"),
    ],
)
def test_simulate_refuses_nonsense_with_a_sentence(good: str, arguments: list[str], words: str) -> None:
    result = run("simulate", good, *arguments)
    assert result.exit_code == 1
    assert words in str(result.exception)


def test_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["properties"]["networks"]


def test_version() -> None:
    said = run("version").stdout
    assert said.startswith("border-sbc") and said.endswith((", compiled\n", ", interpreted\n"))


def child(
    *arguments: str, code: str = "from sbc.cli import main; main()"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_refusal_reaches_the_shell_without_a_traceback(tmp_path: Path) -> None:
    result = child("trunks", "--socket", str(tmp_path / "none.sock"))
    assert result.returncode == 1
    assert result.stderr.startswith("sbc: no SBC is running on")
    assert result.stderr.count("\n") == 1


def test_a_bug_is_a_sentence_too() -> None:
    code = "from sbc import cli; cli.app = lambda **_: 1 / 0; cli.main()"
    result = child(code=code)
    assert result.returncode == 1
    assert result.stderr == (
        "sbc: internal error: ZeroDivisionError: division by zero (set SBC_DEBUG=1 to see where)\n"
    )


def test_the_command_line_loads_only_what_a_command_needs() -> None:
    code = (
        "import sys, sbc.cli;"
        "print([name for name in ('pydantic', 'asyncio', 'sbc.calls', 'rich.live') if name in sys.modules])"
    )
    assert child(code=code).stdout.strip() == "[]"


TURN = """
phones:
  network: public
  registrar: pbx
  turn: {servers: "turn:turn.example.com?transport=udp", secret: "${TURN_SECRET}", ttl_s: 600}
"""


def test_turn_credentials_are_printed_and_the_secret_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURN_SECRET", "first we take manhattan")
    file = tmp_path / "turn.yaml"
    file.write_text(GOOD + TURN)
    result = run("turn-credentials", str(file), "--user", "alice", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    expires, _, user = found["username"].partition(":")
    assert user == "alice" and 0 < int(expires) - time.time() <= 600
    key = b"first we take manhattan"
    digest = hmac.new(key, found["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(found["password"]) == digest
    assert (found["ttl"], found["uris"]) == (600, ["turn:turn.example.com?transport=udp"])
    plain = run("turn-credentials", str(file), "--user", "alice", "--ttl", "60")
    assert "manhattan" not in plain.stdout
    assert [line.split()[0] for line in plain.stdout.splitlines()] == [
        "username",
        "password",
        "good",
        "server",
    ]


def test_turn_credentials_need_a_section_and_a_user(good: str, tmp_path: Path) -> None:
    assert "there is no phones.turn" in str(run("turn-credentials", good, "--user", "alice").exception)
    file = tmp_path / "turn.yaml"
    file.write_text(GOOD + TURN.replace("${TURN_SECRET}", "x"))
    assert "without spaces and colons" in str(run("turn-credentials", str(file), "--user", "a:b").exception)


def test_check_asks_stun_servers_only_with_resolve(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        file = tmp_path / "auto.yaml"
        stun = f"advertise: auto, stun_servers: 127.0.0.1:{server.getsockname()[1]}, listen"
        file.write_text(GOOD.replace("listen", stun, 1))
        assert (
            "STUN servers were not asked (--resolve does), for networks: public"
            in run("check", str(file)).stderr
        )

        def answer(says: str) -> None:
            data, source = server.recvfrom(2048)
            server.sendto(binding_success(parse(data), (says, 1)).encode(), source)

        for says, private in (("198.51.100.7", False), ("192.168.1.7", True)):
            with ThreadPoolExecutor(1) as thread:
                thread.submit(answer, says)
                result = run("check", "--resolve", str(file))
            assert result.exit_code == 0
            assert f"peers see us as {says} (asked 127.0.0.1)" in result.stderr
            assert ("is private" in result.stderr) is private
