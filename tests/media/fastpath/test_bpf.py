"""Maps of the kernel: many elements in one call, and what happens where there is no such call or it stops half way."""

import errno
import os
from collections.abc import Iterator

import pytest

from media.fastpath import bpf
from media.fastpath.bpf import Map, Refused, create_map, number_of
from media.fastpath.elf import MapDefinition
from tests.harness import fastpath

HASH = 1
ROOM = 3000


@pytest.fixture
def table() -> Iterator[Map]:
    """A hash of 4-byte keys and 8-byte values with a certain room."""
    fastpath.loadable()
    made = create_map(MapDefinition("numbers", HASH, 4, 8, ROOM, 0))
    yield made
    made.close()


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def value(number: int) -> bytes:
    return (number * 1_000_003).to_bytes(8, "little")


def put(table: Map, numbers: range) -> dict[int, OSError]:
    return table.put_all([key(each) for each in numbers], b"".join(map(value, numbers)))


def without_batches(table: Map, monkeypatch: pytest.MonkeyPatch, number: int = errno.EINVAL) -> list[int]:
    """The commands that are called, of a kernel before Linux 5.6."""
    real, called = table._call, []

    def older(command: int, attributes: int, size: int) -> int:
        called.append(command)
        return -number if command in (26, 27) else real(command, attributes, size)

    monkeypatch.setattr(table, "_call", older)
    return called


def test_many_are_put_and_deleted_in_few_calls(table: Map, monkeypatch: pytest.MonkeyPatch) -> None:
    real, called = table._call, []

    def counted(command: int, attributes: int, size: int) -> int:
        called.append(command)
        return real(command, attributes, size)

    monkeypatch.setattr(table, "_call", counted)
    assert put(table, range(2500)) == {}
    assert dict(table.items()) == {key(each): value(each) for each in range(2500)}
    assert called[:3] == [26, 26, 26]
    called.clear()
    table.delete_all(map(key, range(500, 2500)))
    assert called == [27, 27]
    assert {found for found, _ in table.items()} == set(map(key, range(500)))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, 524])
def test_a_kernel_without_batches_is_asked_once(
    table: Map, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    called = without_batches(table, monkeypatch, number)
    assert put(table, range(100)) == {} and put(table, range(100, 200)) == {}
    assert called == [26, *[2] * 200]
    assert dict(table.items()) == {key(each): value(each) for each in range(200)}
    table.delete_all(map(key, range(150)))
    assert called.count(27) == 0 and len(list(table.items())) == 50


@pytest.mark.parametrize("batches", [True, False])
def test_those_that_find_no_room_are_named(
    table: Map, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    if not batches:
        without_batches(table, monkeypatch)
    failed = put(table, range(ROOM + 5))
    assert list(failed) == list(range(ROOM, ROOM + 5))
    assert {error.errno for error in failed.values()} == {errno.E2BIG}
    # What is there can still be changed, among others for which there is no room.
    numbers = [0, ROOM + 1, 1, ROOM + 2, 2]
    failed = table.put_all([key(each) for each in numbers], b"".join(value(7) for _ in numbers))
    assert list(failed) == [1, 3]
    assert all(table.lookup(key(each)) and table.value.raw == value(7) for each in (0, 1, 2))


@pytest.mark.parametrize("batches", [True, False])
def test_one_that_is_not_there_ends_no_deletion(
    table: Map, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    assert put(table, range(0, 200, 2)) == {}
    if not batches:
        without_batches(table, monkeypatch)
    table.delete_all(map(key, range(190)))
    assert {found for found, _ in table.items()} == set(map(key, range(190, 200, 2)))
    table.delete_all([])
    assert table.put_all([], b"") == {}


@pytest.mark.parametrize(
    ("machine", "pointer_bytes", "number"),
    [
        ("x86_64", 8, 321),
        ("aarch64", 8, 280),
        ("s390x", 8, 351),
        ("ppc64le", 8, 361),
        # i386 has number 357, and arm 386: of another table than the kernel's own.
        ("x86_64", 4, None),
        ("aarch64", 4, None),
        ("armv7l", 4, None),
        ("mips64", 8, None),
    ],
)
def test_the_system_call_of_a_machine_is_known_or_not_made(
    machine: str, pointer_bytes: int, number: int | None
) -> None:
    assert number_of(machine, pointer_bytes) == number


def test_on_a_machine_that_is_not_known_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf._system, "_number", -1)
    with pytest.raises(Refused) as refused:
        create_map(MapDefinition("numbers", HASH, 4, 8, ROOM, 0))
    assert str(refused.value) == (
        f"the bpf system call of a process of 64 bits on {os.uname().machine} is not known"
    )
