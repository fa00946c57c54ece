"""A YAML text as plain values, with line and column of every key.

Read from PyYAML's events, with the scalars of YAML 1.2's core schema instead of YAML 1.1's, which turn
telephone numbers and times of day into other numbers: `+15551234`, `0015551234`, `12:30`, `yes` and `on` are text.
What is not text when written plain:

- `null`, `Null`, `NULL`, `~` and nothing at all;
- `true`, `True`, `TRUE`, `false`, `False`, `FALSE`;
- integers `0`, `5060`, `-1`: no sign `+`, no leading zero, neither octal (`0o17`) nor hexadecimal (`0x1f`);
- numbers with a fraction or exponent, like `0.5` and `1e3`; neither `.inf` nor `.nan`.

Anchors, aliases, merge keys, tags, duplicate keys and second documents are mistakes. Size, depth and number of
values are bounded.
"""

import re
from dataclasses import dataclass, field

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from config.problems import ConfigError, Problem
from config.secret import Secrets
from config.values import Float, Int, quoted

MAX_BYTES = 1_048_576
MAX_DEPTH = 12
MAX_VALUES = 200_000
MAX_PROBLEMS = 100

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(slots=True)
class Document:
    """What a file says: its `value`, where each key stands, and what was wrong with it as YAML.

    `marks` maps key paths to (line, column), from 1. `hidden` are the keys whose value came from the environment
    or a file and must not be shown.
    """

    file: str
    value: object = None
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    hidden: dict[str, str] = field(default_factory=dict)


def scalar(text: str) -> object:
    """The value of a plain scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        integer = Int(text)
        integer.text = text
        return integer
    if _FRACTION.fullmatch(text):
        number = Float(text)
        number.text = text
        return number
    return text


def child(path: str, key: str) -> str:
    """The path of an entry of a mapping."""
    return f"{path}.{key}" if path else key


def decode(data: bytes, file: str) -> str:
    """The text of a file; raises ConfigError for one that is too long or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise ConfigError(
            [Problem(file, 1, 1, "", f"the file is longer than {MAX_BYTES} bytes; write a shorter one")]
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(file, line, column, "", message)]) from None


def read_document(text: str, file: str, secrets: Secrets) -> Document:
    """The document in `text`. Raises ConfigError where the text is not YAML at all; other mistakes are collected."""
    document = Document(file)
    try:
        _Reader(text, document, secrets).read()
    except ReaderError as error:
        position = error.position
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"the character U+{code:04X} cannot stand in YAML; take it out or write it escaped in quotation marks"
        raise ConfigError([Problem(file, line, column, "", message)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.problem == "found unexpected end of stream":
            # Where the quotation mark is open, not where the file ends.
            mark = error.context_mark or mark
        line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        raise ConfigError([*document.problems, Problem(file, line, column, "", _syntax(error))]) from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError) as error:
        # PyYAML lets a few built-in exceptions through, for instance on escapes beyond U+10FFFF.
        message = f"not YAML ({type(error).__name__}); look for stray characters or quotation marks"
        raise ConfigError([Problem(file, 1, 1, "", message)]) from None
    return document


def _syntax(error: yaml.MarkedYAMLError) -> str:
    what = " ".join(x for x in (error.context, error.problem) if x)
    what = "".join(c if c.isprintable() else "?" for c in what[:200])
    if "'\\t'" in what:
        return "a tab cannot indent YAML; write spaces"
    if "mapping values are not allowed here" in what:
        return 'not YAML (a second ": " in one line); indent the line like its neighbours, or put the value in quotes'
    if "but got '{'" in what and "flow" in what:
        return 'not YAML (a "{" where none can be); inside [ ] and { } write "${NAME}" with quotation marks'
    if "could not find expected ':'" in what:
        return 'not YAML (a key without ": "); write key: value'
    return f"not YAML ({what}); look at this line and the one above for indentation, brackets and quotation marks"


class _Stop(Exception):
    """A bound was passed; the problem is already written down."""


class _Reader:
    def __init__(self, text: str, document: Document, secrets: Secrets) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._document = document
        self._secrets = secrets
        self._values = 0

    def read(self) -> None:
        """Fill the document."""
        documents = 0
        try:
            for event in self._events:
                if isinstance(event, DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._problem(
                            event, "", "a second document begins here; write one document, without ---"
                        )
                        return
                elif isinstance(event, NodeEvent):
                    self._document.value = self._value(event, "", 0)
        except _Stop:
            self._document.value = None

    def _problem(self, event: Event, path: str, message: str) -> None:
        line, column = self._position(event)
        self._document.problems.append(Problem(self._document.file, line, column, path, message))
        if len(self._document.problems) >= MAX_PROBLEMS:
            raise _Stop

    def _position(self, event: Event) -> tuple[int, int]:
        mark = event.start_mark
        return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)

    def _value(self, event: NodeEvent, path: str, depth: int) -> object:
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            what = "so many values" if self._values > MAX_VALUES else "so deep a structure"
            self._problem(event, path, f"{what} cannot be a configuration; write a smaller one")
            raise _Stop
        self._document.marks.setdefault(path, self._position(event))
        self._plain_yaml(event, path)
        match event:
            case MappingStartEvent():
                return self._mapping(event, path, depth)
            case SequenceStartEvent():
                return self._sequence(path, depth)
            case ScalarEvent():
                return self._scalar(event, path)
            case _:
                return None

    def _plain_yaml(self, event: NodeEvent, path: str) -> None:
        if isinstance(event, AliasEvent):
            self._problem(event, path, f"the alias *{event.anchor} cannot be used; write the value out")
        elif event.anchor is not None:
            self._problem(
                event, path, f"the anchor &{event.anchor} cannot be used; write values out where needed"
            )
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._problem(
                event, path, f"the tag {quoted(str(tag))} cannot be used; write the value without it"
            )

    def _sequence(self, path: str, depth: int) -> list[object]:
        items: list[object] = []
        for event in self._events:
            if isinstance(event, SequenceEndEvent):
                break
            assert isinstance(event, NodeEvent)
            items.append(self._value(event, f"{path}[{len(items)}]", depth + 1))
        return items

    def _mapping(self, start: Event, path: str, depth: int) -> object:
        entries: dict[str, object] = {}
        for event in self._events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                assert isinstance(event, NodeEvent)
                self._problem(event, path, "a key must be one word; write key: value")
                self._value(event, path, depth + 1)
                self._value(self._next(), path, depth + 1)
                continue
            key = event.value
            full = child(path, key)
            self._plain_yaml(event, path)
            if key in entries:
                line, _ = self._document.marks[full]
                self._problem(event, full, f"the same key is already in line {line}; write it once")
                # Its content is read to find the mistakes in it, under a path that shadows nothing.
                self._value(self._next(), full, depth + 1)
                continue
            if key == "<<":
                self._problem(event, full, "merge keys cannot be used; write the keys out")
                self._value(self._next(), full, depth + 1)
                continue
            if full not in self._document.marks:
                self._document.marks[full] = self._position(event)
            entries[key] = self._value(self._next(), full, depth + 1)
        return self._from_file(start, entries, path)

    def _next(self) -> NodeEvent:
        event = next(self._events)
        assert isinstance(event, NodeEvent)
        return event

    def _from_file(self, start: Event, entries: dict[str, object], path: str) -> object:
        """`{file: path}` is the content of that file; but `log: {file: ...}` names a log file."""
        if set(entries) != {"file"} or path in {"", "log"}:
            return entries
        name = entries["file"]
        if not isinstance(name, str) or not name:
            self._problem(start, path, "a secret file needs its path; write {file: /path/to/it}")
            return None
        return self._secret(start, path, f"${{file:{name}}}", plain=False)

    def _scalar(self, event: ScalarEvent, path: str) -> object:
        plain = event.style is None
        if "${" in event.value:
            return self._secret(event, path, event.value, plain)
        return scalar(event.value) if plain else event.value

    def _secret(self, event: Event, path: str, text: str, plain: bool) -> object:
        resolved, mistakes = self._secrets.resolve(text)
        for mistake in mistakes:
            self._problem(event, path, mistake)
        if mistakes:
            # Marked as hidden too: what replaces it would only give a second, misleading message.
            self._document.hidden[path] = ""
            return None
        self._document.hidden[path] = resolved
        value = scalar(resolved)
        # `{max_calls: "${N}"}` needs its quotation marks only for the braces; the text of a number is not lost.
        return value if plain or isinstance(value, Int | Float) else resolved
