"""Reads a BPF object file: the program, its maps, and where it names them. As much of ELF as clang writes for that."""

import struct

from config.frozen import frozen

MAX_BYTES = 1 << 20
MAX_SECTIONS = 64
MAX_SYMBOLS = 4096
MAX_RELOCATIONS = 1024

_EM_BPF = 247
_SHT_SYMTAB = 2
_SHT_REL = 9
_R_BPF_64_64 = 1
_SHN_LORESERVE = 0xFF00

_MAP = struct.Struct("=IIIII")
_INSTRUCTION_BYTES = 8
# Two slots: the instruction that loads a 64-bit constant, of which a map is one.
_LOAD_64 = 0x18


class ObjectError(Exception):
    """The object file is not what it should be."""


@frozen
class MapDefinition:
    """A map as the program's source defines it (struct map_definition)."""

    name: str
    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


@frozen
class Program:
    """A program: its instructions, and (byte offset of an instruction, map that it loads) for each use of a map."""

    code: bytes
    uses: tuple[tuple[int, str], ...]
    maps: tuple[MapDefinition, ...]
    license: bytes

    def linked(self, descriptors: dict[str, int]) -> bytes:
        """The instructions with the file descriptors of the maps filled in (BPF_PSEUDO_MAP_FD)."""
        code = bytearray(self.code)
        for offset, name in self.uses:
            code[offset + 1] = code[offset + 1] & 0x0F | 0x10
            struct.pack_into("=i", code, offset + 4, descriptors[name])
        return bytes(code)


@frozen
class _Section:
    name: str
    type: int
    data: bytes
    link: int
    info: int


def read(data: bytes, section: str = "tc") -> Program:
    """The program in `section` of an object file. Raises ObjectError and nothing else."""
    try:
        return _program(data, section)
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise ObjectError(f"truncated or damaged: {error}") from error


def _program(data: bytes, name: str) -> Program:
    if len(data) > MAX_BYTES:
        raise ObjectError(f"larger than {MAX_BYTES} bytes")
    if data[:4] != b"\x7fELF" or data[4:5] != b"\x02":
        raise ObjectError("not a 64-bit ELF file")
    # The program is in the byte order of the machine that it is for.
    order = "<" if data[5] == 1 else ">"
    if struct.pack("=H", 1) != struct.pack(f"{order}H", 1):
        raise ObjectError("compiled for a machine of the other byte order")
    if struct.unpack_from(f"{order}H", data, 18)[0] != _EM_BPF:
        raise ObjectError("not compiled for BPF")
    sections = _sections(data, order)
    places = {section.name: place for place, section in enumerate(sections)}
    for wanted in (name, "maps", "license"):
        if wanted not in places:
            raise ObjectError(f"no section {wanted!r}")
    table = next((section for section in sections if section.type == _SHT_SYMTAB), None)
    if table is None:
        raise ObjectError("no symbols")
    symbols = _symbols(table, sections, order)
    definitions = _maps(sections[places["maps"]].data, symbols, places["maps"])
    code = sections[places[name]].data
    if not code or len(code) % _INSTRUCTION_BYTES:
        raise ObjectError("no whole number of instructions")
    uses: list[tuple[int, str]] = []
    for section in sections:
        if section.type == _SHT_REL and section.info == places[name]:
            uses += _uses(section.data, code, symbols, places["maps"], order)
    license_text = sections[places["license"]].data
    return Program(code, tuple(uses), tuple(definitions), license_text.rstrip(b"\0"))


def _sections(data: bytes, order: str) -> list[_Section]:
    start = struct.unpack_from(f"{order}Q", data, 40)[0]
    size, count, names_at = struct.unpack_from(f"{order}HHH", data, 58)
    if size != 64 or not 0 < count <= MAX_SECTIONS:
        raise ObjectError(f"{count} section headers of {size} bytes")
    headers = [struct.unpack_from(f"{order}IIQQQQIIQQ", data, start + 64 * place) for place in range(count)]
    bodies: list[bytes] = []
    for header in headers:
        offset, length = header[4], header[5]
        # Type 8 (.bss) has a size and no bytes.
        if header[1] != 8 and offset + length > len(data):
            raise ObjectError("a section beyond the end of the file")
        bodies.append(b"" if header[1] == 8 else data[offset : offset + length])
    names = bodies[names_at]
    return [
        _Section(_text(names, header[0]), header[1], body, header[6], header[7])
        for header, body in zip(headers, bodies, strict=True)
    ]


def _symbols(table: _Section, sections: list[_Section], order: str) -> list[tuple[str, int, int]]:
    """(name, section, offset in it) of each symbol."""
    names = sections[table.link].data
    if len(table.data) > 24 * MAX_SYMBOLS:
        raise ObjectError(f"more than {MAX_SYMBOLS} symbols")
    entries = struct.iter_unpack(f"{order}IBBHQQ", table.data)
    return [(_text(names, entry[0]), entry[3], entry[4]) for entry in entries]


def _maps(data: bytes, symbols: list[tuple[str, int, int]], place: int) -> list[MapDefinition]:
    found = [
        MapDefinition(name, *_MAP.unpack_from(data, offset))
        for name, section, offset in symbols
        if section == place and name
    ]
    if len(found) * _MAP.size != len(data):
        raise ObjectError("the maps are not what the symbols say")
    return found


def _uses(
    data: bytes, code: bytes, symbols: list[tuple[str, int, int]], maps: int, order: str
) -> list[tuple[int, str]]:
    if len(data) > 16 * MAX_RELOCATIONS:
        raise ObjectError(f"more than {MAX_RELOCATIONS} relocations")
    uses = []
    for offset, info in struct.iter_unpack(f"{order}QQ", data):
        name, section, _ = symbols[info >> 32]
        if info & 0xFFFFFFFF != _R_BPF_64_64 or section != maps or section >= _SHN_LORESERVE:
            raise ObjectError(f"refers to {name!r}, which is no map")
        if offset % _INSTRUCTION_BYTES or offset + 16 > len(code) or code[offset] != _LOAD_64:
            raise ObjectError(f"a reference to {name!r} where none can be")
        uses.append((offset, name))
    return uses


def _text(names: bytes, offset: int) -> str:
    end = names.index(b"\0", offset) if b"\0" in names[offset:] else len(names)
    return names[offset:end].decode("ascii")
