"""The verbs of the control socket: finding a call, rows of tables, figures that do not come."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config.load import load
from media.relay import Counters, StreamCounters
from sbc.anchor import MediaLine, MediaReport
from sbc.control import ControlError
from sbc.operator import Operated, Operator, call_row
from sbc.record import CallRecord
from signaling.flow import Flow

CONFIG = load(
    """
networks:
  public: {address: 192.0.2.1, listen: [udp:5060], media_ports: 20000-29999, nat: far-end}
  private: {address: 10.0.0.1, listen: [udp:5060], media_ports: 20000-29999}
trunks:
  pbx: {network: private, servers: ["sip:10.0.0.20"], nat: far-end}
routes:
  - {from: public, to: pbx}
"""
)
LINE = MediaLine(7, "audio", "PCMU", "192.168.0.9:4", "10.0.0.20:6", "x:1", "y:2", "sendrecv", "sendrecv")


def record(name: str, call_id: str) -> CallRecord:
    made = CallRecord(name, 1000.0)
    made.caller, made.called = "alice", "100"
    made.add_leg("a", Flow("public", "udp", ("192.0.2.1", 5060), ("198.51.100.7", 5060)), None, call_id)
    made.add_leg("b1", Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.20", 5060)), "pbx", f"b-{call_id}")
    made.answered(1001.0, "b1")
    return made


class FakeServer:
    """What the verbs need of a server, with one live call and two that have ended."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.wall = 1011.0
        self.hung_up: list[str] = []
        self.answers = True
        live = record("c-aaaa1111", "live-id")
        self.calls = cast(
            Any,
            SimpleNamespace(
                live={live.id: live},
                closing=[live, record("c-cccc4444", "closing")],
                recent=deque([record("c-aaaa2222", "old"), record("c-bbbb3333", "older")], maxlen=200),
                draining=False,
                media=lambda call: MediaReport((LINE,)),
                leftovers=lambda: {"calls": 1, "ports": 2},
                phones=SimpleNamespace(locations=[1, 2, 3]),
            ),
        )

    async def counters(self, streams: list[int]) -> list[StreamCounters]:
        if not self.answers:
            await asyncio.sleep(3600)
        heard = Counters(packets=10, forwarded=10, mos=4.4)
        return [StreamCounters(number, "c-aaaa1111", heard, Counters()) for number in streams]

    def servers(self) -> list[dict[str, str]]:
        return [
            {"trunk": "pbx", "network": "private", "server": "udp 10.0.0.20:5060", "state": "up", "why": ""}
        ]

    def registered(self) -> list[dict[str, str]]:
        return [{"trunk": "pbx", "user": "4930", "state": "registered"}]

    def registrations(self) -> list[dict[str, object]]:
        return [{"user": "alice", "state": "up"}, {"user": "bob", "state": "up"}]

    def counts(self) -> dict[str, int]:
        return {"refused:no-route": 3}

    async def reload(self) -> list[str]:
        return ["limits.max_calls: 1 -> 2"]

    def hang_up(self, call: str) -> None:
        self.hung_up.append(call)


def operator() -> tuple[FakeServer, Operator]:
    server = FakeServer()
    checked: Operated = server
    return server, Operator(checked)


def answer(asked: Awaitable[dict[str, object]]) -> Any:
    async def run() -> dict[str, object]:
        return await asked

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("c-aaaa1111", "c-aaaa1111"),
        ("c-b", "c-bbbb3333"),
        ("bbbb", "c-bbbb3333"),
        ("aaaa2", "c-aaaa2222"),
        ("live-id", "c-aaaa1111"),
        ("b-old", "c-aaaa2222"),
    ],
)
def test_a_call_is_found_by_id_by_its_first_letters_and_by_a_call_id(name: str, found: str) -> None:
    assert operator()[1].find({"call": name}).id == found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aaaa", "may be 2 calls: c-aaaa1111, c-aaaa2222; give more letters"),
        ("zzzz", "no call 'zzzz' is in progress or among the last 200"),
        ("", "which call"),
        (7, "which call"),
    ],
)
def test_what_is_not_one_call_is_refused_with_a_sentence(name: object, words: str) -> None:
    with pytest.raises(ControlError, match=words):
        operator()[1].find({"call": name})


def test_calls_come_with_their_figures() -> None:
    (row,) = answer(operator()[1].calls({}))["calls"]
    assert row == {
        "id": "c-aaaa1111", "state": "up", "source": "public", "source_network": "public", "caller": "alice",
        "target": None, "target_network": None, "called": "100",
        "started": 1000.0, "lasted_s": 10.0, "codec": "PCMU", "status": 0, "cause": "",
        "packets": "10/0", "loss": "0.0/-", "mos": "4.4/-",
    }  # fmt: skip


def test_figures_are_fetched_for_as_many_calls_as_are_shown() -> None:
    (row,) = answer(operator()[1].calls({"figures": 0}))["calls"]
    assert (row["id"], row["packets"], row["mos"]) == ("c-aaaa1111", "", "")


def test_recent_calls_come_latest_first() -> None:
    rows = answer(operator()[1].recent({}))["calls"]
    assert [row["id"] for row in rows] == ["c-bbbb3333", "c-aaaa2222"]


def test_explain_uses_the_figures_of_now_and_what_policy_says_of_nat() -> None:
    explained = answer(operator()[1].explain({"call": "live-id", "width": 80, "plain": True}))
    assert "A sends, we forward." in explained["text"]
    assert explained["data"]["media"][0]["a"]["packets"] == 10
    # The trunk says far-end though its network does not: the sentence does not ask for it again.
    assert "set nat: far-end" not in explained["text"]


def test_explain_works_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbc.operator.COUNTERS_DEADLINE_S", 0.01)
    server, verbs = operator()
    server.answers = False
    explained = answer(verbs.explain({"call": "live-id"}))
    assert "The relay has no figures of the audio stream." in explained["text"]


def test_hang_up_only_what_lives() -> None:
    server, verbs = operator()
    assert answer(verbs.hangup({"call": "live-id"})) == {"call": "c-aaaa1111"}
    assert server.hung_up == ["c-aaaa1111"]
    with pytest.raises(ControlError, match="c-bbbb3333 has already ended"):
        answer(verbs.hangup({"call": "older"}))


def test_trunks_count_their_calls_and_stats_what_is_held() -> None:
    verbs = operator()[1]
    assert answer(verbs.trunks({}))["servers"][0]["calls"] == 1
    assert answer(verbs.trunks({}))["registered"][0]["user"] == "4930"
    assert answer(verbs.stats({})) == {
        "held.calls": 1,
        "held.ports": 2,
        "registrations": 3,
        "refused:no-route": 3,
    }
    assert answer(verbs.reload({})) == {"changes": ["limits.max_calls: 1 -> 2"]}


def test_a_row_without_a_leg_is_a_row() -> None:
    assert call_row(CallRecord("c-1", 5.0), None, 6.0)["source"] is None


def test_explaining_a_call_that_has_just_ended_waits_for_its_last_figures() -> None:
    server, verbs = operator()
    ending = record("c-dddd5555", "ending")
    ending.end(1010.0, "a", "bye", "hung up", 200, "bye")
    server.calls.closing.append(ending)

    async def run() -> Any:
        async def figures_come() -> None:
            await asyncio.sleep(0.1)
            heard = Counters(packets=10, forwarded=10, mos=4.4)
            ending.media = MediaReport((LINE,), (StreamCounters(LINE.stream, ending.id, heard, heard),))
            server.calls.closing.remove(ending)

        coming = asyncio.create_task(figures_come())
        explained = await verbs.explain({"call": ending.id})
        await coming
        return explained

    assert "10 packets" in str(asyncio.run(run())["text"])


def test_registrations_of_all_or_of_one() -> None:
    _, verbs = operator()
    assert len(answer(verbs.registrations({}))["registrations"]) == 2
    assert answer(verbs.registrations({"user": "bob"}))["registrations"] == [{"user": "bob", "state": "up"}]
