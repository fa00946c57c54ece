"""Reading object files: the compiled one, and whatever else there may be. ObjectError is all that is ever raised."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from media.fastpath import elf, table


def test_the_program_and_its_maps_are_found(compiled: Path) -> None:
    program = elf.read(compiled.read_bytes())
    maps = {definition.name: definition for definition in program.maps}
    assert set(maps) == {"flows", "leases"}
    assert (maps["flows"].key_bytes, maps["flows"].value_bytes) == (table.KEY_BYTES, table.FLOW_BYTES)
    assert {name for _, name in program.uses} == {"flows", "leases"}
    assert program.license == b"Apache-2.0"


def test_linking_fills_in_descriptors(compiled: Path) -> None:
    program = elf.read(compiled.read_bytes())
    code = program.linked({"flows": 17, "leases": 18})
    for offset, name in program.uses:
        assert code[offset + 1] >> 4 == 1
        assert int.from_bytes(code[offset + 4 : offset + 8], "little") == {"flows": 17, "leases": 18}[name]
    assert len(code) == len(program.code)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a 64-bit ELF"),
        (b"\x7fELF\x02\x01", "truncated or damaged"),
        (b"#!/bin/sh\n", "not a 64-bit ELF"),
        (b"\x7fELF\x01" + bytes(100), "not a 64-bit ELF"),
        (b"\x7fELF\x02\x01" + bytes(100), "not compiled for BPF"),
        (b"\x7fELF\x02\x02" + bytes(100), "other byte order"),
        (bytes(elf.MAX_BYTES + 1), "larger than"),
    ],
)
def test_other_files_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(elf.ObjectError, match=reason):
        elf.read(data)


def test_another_section_is_asked_for_in_vain(compiled: Path) -> None:
    with pytest.raises(elf.ObjectError, match="no section 'xdp'"):
        elf.read(compiled.read_bytes(), "xdp")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 20000), at=st.integers(0, 20000), new=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_raises_one_error_and_nothing_else(
    compiled: Path, cut: int, at: int, new: bytes
) -> None:
    data = bytearray(compiled.read_bytes())
    # The headers are where damage does most.
    at %= len(data)
    data[at : at + len(new)] = new
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        with contextlib.suppress(elf.ObjectError):
            elf.read(damaged)
