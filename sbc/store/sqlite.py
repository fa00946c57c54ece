"""The registrations in a SQLite file: one writer thread, one commit for all that waits (stdlib sqlite3, WAL).

What `write` was given is on the disk when its `done` is called: the process may be killed, or the power fail, right
after it. Readers (`sqlite3 FILE`) disturb nothing, since WAL lets them look at the state before.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sbc.binding import COLUMNS, Row, storable
from sbc.locations import WIPE, Change
from sbc.users import User

SCHEMA = 1
MAX_OWED = 20_000
"""Changes that are kept while the disk fails; beyond it everything is written once more when it works again."""
MAX_WAITING = 100_000
"""Writes that wait for the disk; beyond it they fail at once."""
BATCH = 5_000
"""Changes in one commit."""
GATHER_S = 0.02
"""How long a commit waits for company: a phone does not notice, and a commit costs more than what it writes."""
BUSY_S = 5.0
SECRET_BYTES = 32

Done = Callable[[str | None], None]
_log = logging.getLogger(__name__)
_OF_VALUES = (sqlite3.ProgrammingError, sqlite3.InterfaceError, ValueError, OverflowError)
"""Raised for what is to be written, and not because of where."""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bindings (
  {", ".join(f"{name} {kind} NOT NULL" for name, kind in COLUMNS)}, PRIMARY KEY (user, identity)
) WITHOUT ROWID;
"""
_PUT = f"INSERT OR REPLACE INTO bindings VALUES ({', '.join('?' * len(COLUMNS))})"
USERS_TABLE = """
CREATE TABLE IF NOT EXISTS users (
  user TEXT NOT NULL, realm TEXT NOT NULL, md5 TEXT, sha256 TEXT, sha512_256 TEXT,
  numbers TEXT NOT NULL DEFAULT '[]', PRIMARY KEY (user, realm)
) WITHOUT ROWID;
"""
_COLUMNS = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


class StoreError(Exception):
    """A file that cannot be used: one sentence with the cause and what to do."""


@dataclass(slots=True)
class Stored:
    """What was in the file: the secret of tokens and GRUUs, and the bindings."""

    secret: bytes
    rows: list[Row]


@dataclass(slots=True, eq=False)
class _Work:
    changes: Sequence[Change] = ()
    done: Done = field(default=lambda error: None)


class SqliteStore:
    """The file with the bindings. `call` runs something in the thread of the event loop.

    `on_behind` runs there when too much could not be written and the disk works again: all that there is has to follow,
    after `WIPE`.
    """

    def __init__(
        self,
        path: str,
        call: Callable[[Callable[[], None]], object],
        on_behind: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._call = call
        self._waiting: deque[_Work] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        # Of commits that failed: tried again with the next one.
        self._owed: dict[tuple[str, str], Change] = {}
        self._on_behind = on_behind
        self._behind = self._asked = False
        self.commits = 0

    def open(self, random: Callable[[int], bytes] = os.urandom) -> Stored:
        """Open the file, make it where there is none, and start the writer. StoreError with what to do."""
        try:
            with closing(connect(self.path)) as database:
                stored = _read(database, self.path, random)
        except sqlite3.Error as error:
            raise StoreError(cause_of(self.path, error)) from error
        except OSError as error:
            raise StoreError(_unusable(self.path, error)) from error
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._thread.start()
        return stored

    def write(self, changes: Sequence[Change], done: Done) -> None:
        """Store `changes`; `done(None)` follows in the event loop when they are on the disk, `done(why)` when not."""
        with self._wake:
            why = ""
            if self._closing or self._thread is None:
                why = "the store is closed"
            elif not self._thread.is_alive():
                why = "the writer has died of a bug, see the log"
            elif len(self._waiting) >= MAX_WAITING:
                why = "the disk is too slow"
            if why:
                self._call(lambda: done(why))
                return
            self._waiting.append(_Work(changes, done))
            self._wake.notify()

    def close(self) -> None:
        """Write what waits, and end. Safe to call twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(BUSY_S + 5.0)
            self._thread = None

    # -- the writer thread ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        database: sqlite3.Connection | None = None
        try:
            while works := self._next():
                error = None
                try:
                    if database is None:
                        database = connect(self.path)
                    works = self._write(database, works)
                except Exception as failure:
                    # Whatever it is, the next phone has to be able to register.
                    error = str(failure)
                    if not isinstance(failure, (sqlite3.Error, OSError)):
                        # A bug: what is owed would fail again, and all that comes with it.
                        _log.exception("the store cannot write %d changes, they are dropped", len(self._owed))
                        self._owed = {}
                    if database is not None:
                        database.close()
                        database = None
                    if len(self._owed) > MAX_OWED or self._behind:
                        self._owed, self._behind, self._asked = {}, True, False
                self._tell(works, error)
        finally:
            if database is not None:
                database.close()

    def _next(self) -> list[_Work]:
        """All that waits, at least one; nothing at the end."""
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
        if not self._closing:
            time.sleep(GATHER_S)
        with self._wake:
            works: list[_Work] = []
            size = 0
            while self._waiting and size < BATCH:
                works.append(self._waiting.popleft())
                size += len(works[-1].changes)
            return works

    def _write(self, database: sqlite3.Connection, works: list[_Work]) -> list[_Work]:
        """Commit all, but for what SQLite does not take as a value: who wants that is told. Returns the others."""
        try:
            self._commit(database, works)
            return works
        except _OF_VALUES as failure:
            error = str(failure)
        refused = {key for key, change in self._owed.items() if not _takes(database, change)}
        _log.error("the store cannot write %d changes: %s", len(refused), error)
        self._owed = {key: change for key, change in self._owed.items() if key not in refused}
        failed = [work for work in works if any((one.user, one.identity) in refused for one in work.changes)]
        self._tell(failed, error)
        others = [work for work in works if work not in failed]
        self._commit(database, others)
        return others

    def _commit(self, database: sqlite3.Connection, works: Iterable[_Work]) -> None:
        latest = self._owed
        for work in works:
            for change in work.changes:
                if change == WIPE:
                    latest.clear()
                latest[change.user, change.identity] = change
        everything = (WIPE.user, WIPE.identity) in latest
        puts = [change.row for change in latest.values() if change.row is not None]
        gone = [(storable(key[0]), storable(key[1])) for key, change in latest.items() if change.row is None]
        # Left as owed until the commit has come back.
        with database:
            database.execute("BEGIN IMMEDIATE")
            if everything:
                database.execute("DELETE FROM bindings")
            if puts:
                database.executemany(_PUT, puts)
            if gone:
                database.executemany("DELETE FROM bindings WHERE user = ? AND identity = ?", gone)
        self._owed = {}
        self.commits += 1
        if everything:
            self._behind = self._asked = False
        elif self._behind and not self._asked:
            self._asked = True
            self._call(self._on_behind)

    def _tell(self, works: list[_Work], error: str | None) -> None:
        def tell() -> None:
            for work in works:
                work.done(error)

        self._call(tell)


def _takes(database: sqlite3.Connection, change: Change) -> bool:
    """Whether SQLite takes what is to be written as values."""
    row = (storable(change.user), storable(change.identity)) if change.row is None else change.row
    try:
        database.execute(f"SELECT {', '.join('?' * len(row))}", row)
    except _OF_VALUES:
        return False
    return change.row is None or len(row) == len(COLUMNS)


def connect(path: str) -> sqlite3.Connection:
    """The file, open for reading and writing; made for the owner's eyes only where there is none."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk when it returns, also when the power fails.
        database.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _read(database: sqlite3.Connection, path: str, random: Callable[[int], bytes]) -> Stored:
    found = database.execute("PRAGMA quick_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise sqlite3.DatabaseError("database disk image is malformed")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise StoreError(
            f"{path} was written by a later version (schema {version}, this one knows {SCHEMA}): run that version, or "
            "name another file in phones.store"
        )
    others = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    if version == 0 and others:
        raise StoreError(
            f"{path} is a SQLite file of something else (table {others[0][0]}): name another file in phones.store"
        )
    database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    with database:
        database.execute(
            "INSERT INTO meta VALUES ('secret', ?) ON CONFLICT (key) DO NOTHING",
            (random(SECRET_BYTES).hex(),),
        )
    (secret,) = database.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    rows = list(database.execute(f"SELECT {', '.join(name for name, _ in COLUMNS)} FROM bindings"))
    return Stored(bytes.fromhex(secret), rows)


def cause_of(path: str, error: sqlite3.Error) -> str:
    """What is wrong with a file, and what to do."""
    text = str(error)
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return (
            f"{path} is damaged ({text}): move it and the files {Path(path).name}-wal and {Path(path).name}-shm beside "
            "it away and start again (phones register anew when their registration runs out), or put a copy back; "
            f"sqlite3 {path} .recover may get back what can be read"
        )
    if "locked" in text:
        return f"{path} is in use by another process ({text}): end that one first"
    return f"{path} cannot be used: {text}"


def _unusable(path: str, error: OSError) -> str:
    why = error.strerror or str(error)
    advice = (
        "make the folder, or name another file" if isinstance(error, FileNotFoundError) else "see who owns it"
    )
    return f"{path} cannot be used: {why}; {advice} (phones.store)"


# -- users -------------------------------------------------------------------------------------------------


def read_users(path: str, realm: str) -> list[User]:
    """The users of a realm out of a users_file. StoreError with what to do."""
    if not Path(path).exists():
        raise StoreError(f"{path} does not exist: make it with `sbc user add`, or take phones.users_file out")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            rows = database.execute(
                "SELECT user, md5, sha256, sha512_256, numbers FROM users WHERE realm = ?", (realm,)
            ).fetchall()
    except sqlite3.Error as error:
        raise StoreError(cause_of(path, error).replace("phones.store", "phones.users_file")) from error
    users = []
    for name, *hashes, numbers in rows:
        secrets = {
            algorithm: str(text).lower()
            for algorithm, text in zip(_COLUMNS, hashes, strict=True)
            if text is not None
        }
        try:
            listed = json.loads(numbers)
        except ValueError as error:
            raise StoreError(f"{path}: numbers of user {name} are no JSON list") from error
        users.append(User(str(name), secrets, tuple(str(one) for one in listed)))
    return users


def write_user(path: str, realm: str, user: User) -> None:
    """Add a user, or replace the one of that name and realm."""
    try:
        with closing(connect(path)) as database:
            database.executescript(USERS_TABLE)
            with database:
                database.execute(
                    "INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        user.name,
                        realm,
                        *(user.secrets.get(algorithm) for algorithm in _COLUMNS),
                        json.dumps(list(user.numbers)),
                    ),
                )
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def remove_user(path: str, realm: str, name: str) -> bool:
    """Take a user out; whether there was one."""
    try:
        with closing(connect(path)) as database, database:
            done = database.execute("DELETE FROM users WHERE user = ? AND realm = ?", (name, realm))
            return done.rowcount > 0
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path} cannot be written: {error}") from error
