"""The store of a running server: opened by the configuration, written from the loop, told back in the loop."""

import asyncio
import os
from collections.abc import Callable

from config.model import Config
from sbc.binding import Row
from sbc.locations import Change
from sbc.registrar import REWRITE
from sbc.store.sqlite import SqliteStore, read_users
from sbc.users import Users


class BindingStore:
    """The file of `phones.store`, or nothing where there is none to be kept.

    `stored(ticket, error)` is called in the loop when what `write` was given is on the disk. Opening raises StoreError.
    A file that is new gets `secret`, where the phones have one already, instead of one of its own.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        stored: Callable[[int, str | None], None],
        secret: bytes | None = None,
    ) -> None:
        self.path = path_of(config)
        self.secret: bytes | None = None
        self.rows: list[Row] = []
        self._stored = stored
        self._file: SqliteStore | None = None
        if self.path is not None:
            store = SqliteStore(self.path, loop.call_soon_threadsafe, lambda: stored(REWRITE, None))
            found = store.open(os.urandom if secret is None else lambda size: secret)
            self.secret, self.rows, self._file = found.secret, found.rows, store

    @property
    def lasting(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def write(self, ticket: int, changes: tuple[Change, ...]) -> None:
        """Write `changes`."""
        if self._file is None:
            self._stored(ticket, None)
        else:
            self._file.write(changes, lambda error: self._stored(ticket, error))

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def path_of(config: Config) -> str | None:
    """The file that a configuration keeps its bindings in."""
    return None if config.phones is None else config.phones.store


def users_of(config: Config) -> Users | None:
    """The users of `registrar: local`, those of `phones.users_file` among them. StoreError when it cannot be read."""
    phones = config.phones
    if phones is None or not phones.local:
        return None
    stored = [] if phones.users_file is None else read_users(phones.users_file, config.phones_domain)
    return Users.of_config(config, stored)
