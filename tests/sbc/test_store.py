"""The store: what was acknowledged is there after kill -9; a file that cannot be used says why and what to do."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sbc.binding import Binding, Row, binding_of, row_of
from sbc.locations import Change, Locations
from sbc.store import sqlite
from sbc.store.sqlite import SqliteStore, StoreError, read_users, remove_user, write_user
from sbc.users import User
from signaling.flow import Flow

WAIT_S = 20.0
ROOT = Path(__file__).parents[2]


class Acks:
    """Collects what the writer says, in the thread of the writer."""

    def __init__(self) -> None:
        self.said: list[str | None] = []
        self.new = threading.Condition()

    def call(self, work: Callable[[], None]) -> None:
        with self.new:
            work()
            self.new.notify_all()

    def wait(self, count: int) -> None:
        with self.new:
            assert self.new.wait_for(lambda: len(self.said) >= count, WAIT_S), self.said


def row(user: str, agent: str = "") -> Row:
    binding = Binding(
        user, "uri sip:x", "sip:x", f"token-{user}", Flow("n", "udp", ("192.0.2.1", 1), ("192.0.2.2", 2)), 1.0, "c", 1,
        user_agent=agent,
    )  # fmt: skip
    return row_of(binding, 0.0, 1000.0)


def put(user: str, agent: str = "") -> Change:
    return Change(user, "uri sip:x", row(user, agent))


@pytest.fixture
def acks() -> Acks:
    return Acks()


@pytest.fixture
def store(tmp_path: Path, acks: Acks) -> Iterator[SqliteStore]:
    one = SqliteStore(str(tmp_path / "locations.db"), acks.call)
    one.open()
    yield one
    one.close()


def test_written_and_read_again(store: SqliteStore, acks: Acks) -> None:
    store.write([put("alice", "Phone/1"), put("bob")], acks.said.append)
    store.write([Change("bob", "uri sip:x", None)], acks.said.append)
    acks.wait(2)
    assert acks.said == [None, None]
    store.close()
    again = SqliteStore(store.path, acks.call)
    stored = again.open()
    again.close()
    assert stored.rows == [row("alice", "Phone/1")]


def test_bytes_that_are_no_utf8_are_stored_and_come_back(store: SqliteStore, acks: Acks) -> None:
    binding = Binding(
        "alice", "uri sip:\udcff@x", "sip:\udcff@x", "t", Flow("n", "udp", ("192.0.2.1", 1), ("192.0.2.2", 2)), 1.0,
        "\udcfe", 1, user_agent="Phone/\udcff",
    )  # fmt: skip
    change = Change("alice", binding.identity, row_of(binding, 0.0, 1000.0))
    store.write([change], acks.said.append)
    acks.wait(1)
    assert acks.said == [None]
    store.close()
    again = SqliteStore(store.path, acks.call)
    found = binding_of(again.open().rows[0], 0.0, 1000.0)
    assert found is not None
    assert (found.identity, found.call_id, found.user_agent) == (binding.identity, "\udcfe", "Phone/\udcff")
    again.write([Change("alice", binding.identity, None)], acks.said.append)
    acks.wait(2)
    again.close()
    last = SqliteStore(store.path, acks.call)
    assert acks.said == [None, None] and last.open().rows == []
    last.close()


@pytest.mark.parametrize("column", ["user", "cseq", "missing"])
def test_what_cannot_be_written_is_dropped_alone(
    store: SqliteStore, acks: Acks, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A value that SQLite refuses takes nothing with it: neither what is owed nor what comes in the same commit."""
    monkeypatch.setattr(sqlite, "GATHER_S", 0.3)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON bindings BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        store.write([put("owed")], acks.said.append)
        acks.wait(1)
        other.execute("DROP TRIGGER full")
    other.close()
    good = row("alice")
    poison = {
        "user": ("\udcff", *good[1:]),
        "cseq": (*good[:13], 2**70, *good[14:]),
        "missing": good[:-1],
    }[column]
    for changes in (
        [put("bob")],
        [Change("alice", "uri sip:x", poison)],
        [Change("gone", "uri sip:x", None)],
    ):
        store.write(changes, acks.said.append)
    acks.wait(4)
    assert acks.said[0] == "disk is full" and acks.said[1] and acks.said[2:] == [None, None]
    store.write([put("carol")], acks.said.append)
    acks.wait(5)
    assert acks.said[4] is None
    store.close()
    again = SqliteStore(store.path, acks.call)
    assert {found[0] for found in again.open().rows} == {"owed", "bob", "carol"}
    again.close()


def test_the_secret_stays(store: SqliteStore, acks: Acks) -> None:
    store.close()
    secrets = set()
    for _ in range(2):
        again = SqliteStore(store.path, acks.call)
        secrets.add(again.open().secret)
        again.close()
    assert len(secrets) == 1 and len(secrets.pop()) == 32


def test_the_file_is_for_its_owner_only(store: SqliteStore) -> None:
    """It holds the secret that tokens are made of."""
    assert Path(store.path).stat().st_mode & 0o077 == 0


def test_what_waits_is_committed_together(store: SqliteStore, acks: Acks) -> None:
    for number in range(500):
        store.write([put(f"user{number}")], acks.said.append)
    acks.wait(500)
    assert set(acks.said) == {None}
    assert store.commits < 400


def test_close_writes_what_waits(store: SqliteStore, acks: Acks) -> None:
    for number in range(50):
        store.write([put(f"user{number}")], acks.said.append)
    store.close()
    assert acks.said == [None] * 50
    store.write([put("late")], acks.said.append)
    assert acks.said[-1] == "the store is closed"


CHILD = """
import sys, time
from sbc.locations import Change
from sbc.store.sqlite import SqliteStore
from tests.sbc.test_store import put
store = SqliteStore(sys.argv[1], lambda work: work())
store.open()
for number in range(100000):
    name = f"user{number}"
    def done(error, name=name):
        assert error is None
        print(name, flush=True)
    store.write([put(name)], done)
    time.sleep(0.0005)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, acks: Acks) -> None:
    path = str(tmp_path / "locations.db")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(200)]
        os.kill(child.pid, signal.SIGKILL)
        told += [
            line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        ]
    assert child.returncode == -signal.SIGKILL
    again = SqliteStore(path, acks.call)
    kept = {found[0] for found in again.open().rows}
    again.close()
    assert len(told) >= 200 and set(told) <= kept


def test_a_damaged_file_says_what_to_do(tmp_path: Path, acks: Acks) -> None:
    path = tmp_path / "locations.db"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=r"is damaged .*move it .*away and start again"):
        SqliteStore(str(path), acks.call).open()


def test_damage_inside_is_found(store: SqliteStore, acks: Acks) -> None:
    for number in range(400):
        store.write([put(f"user{number}", "x" * 200)], acks.said.append)
    acks.wait(400)
    store.close()
    path = Path(store.path)
    data = bytearray(path.read_bytes())
    data[8192:20000] = b"\xa5" * (20000 - 8192)
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="is damaged"):
        SqliteStore(str(path), acks.call).open()


def test_a_file_of_a_later_version(store: SqliteStore, acks: Acks) -> None:
    store.close()
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match="later version"):
        SqliteStore(store.path, acks.call).open()


def test_somebody_elses_database(tmp_path: Path, acks: Acks) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs (name TEXT)")
    database.close()
    with pytest.raises(StoreError, match="something else"):
        SqliteStore(str(path), acks.call).open()


def test_no_folder(tmp_path: Path, acks: Acks) -> None:
    with pytest.raises(StoreError, match="make the folder"):
        SqliteStore(str(tmp_path / "none" / "locations.db"), acks.call).open()


def test_a_failed_commit_is_told_and_made_up_for(store: SqliteStore, acks: Acks) -> None:
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON bindings BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        store.write([put("alice")], acks.said.append)
        acks.wait(1)
        assert acks.said == ["disk is full"]
        other.execute("DROP TRIGGER full")
        store.write([put("bob")], acks.said.append)
        acks.wait(2)
    other.close()
    assert acks.said[1] is None
    store.close()
    again = SqliteStore(store.path, acks.call)
    assert {found[0] for found in again.open().rows} == {"alice", "bob"}
    again.close()


def test_what_a_failing_disk_leaves_behind_is_bounded_and_made_up_for(
    tmp_path: Path, acks: Acks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_OWED", 10)
    store = SqliteStore(str(tmp_path / "locations.db"), acks.call, lambda: acks.said.append("behind"))
    store.open()
    store.write([put("old")], acks.said.append)
    acks.wait(1)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON bindings BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        store.write([Change("old", "uri sip:x", None)], acks.said.append)
        store.write([put(f"user{number}") for number in range(11)], acks.said.append)
        acks.wait(3)
        assert acks.said == [None, "disk is full", "disk is full"] and len(store._owed) == 0
        store.write([put("alice")], acks.said.append)
        acks.wait(4)
        other.execute("DROP TRIGGER full")
        store.write([put("bob")], acks.said.append)
        acks.wait(6)
    other.close()
    assert acks.said[3:] == ["disk is full", "behind", None]
    locations = Locations()
    locations.restore([row("alice"), row("bob")], 0.0, 1000.0)
    assert not locations.unsaved
    locations.rewrite()
    assert locations.unsaved
    store.write(locations.take_changes(0.0, 1000.0), acks.said.append)
    assert not locations.unsaved
    store.write([put("carol")], acks.said.append)
    acks.wait(8)
    store.close()
    again = SqliteStore(store.path, acks.call)
    assert {found[0] for found in again.open().rows} == {"alice", "bob", "carol"}
    again.close()
    assert acks.said[6:] == [None, None]


def test_users(tmp_path: Path) -> None:
    path = str(tmp_path / "users.db")
    alice = User("alice", {"MD5": "0" * 32, "SHA-256": "1" * 64}, ("+15551234",))
    write_user(path, "example.com", alice)
    write_user(path, "example.org", User("alice", {"MD5": "2" * 32}))
    assert read_users(path, "example.com") == [alice]
    assert remove_user(path, "example.com", "alice")
    assert not remove_user(path, "example.com", "alice")
    assert read_users(path, "example.com") == []


def test_users_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        read_users(str(tmp_path / "users.db"), "example.com")
