"""The operator's log: a message, then key=value, always with call= and leg= (style.md s.9).

The standard library's `logging` is underneath, so that modules which only know `logging.getLogger(__name__)`
end up in the same file in the same form. `Log` adds fields and costs one comparison when its level is off.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import IO

TRACE_LINE_LIMIT = 4096
"""A longer line of a message is cut in the log; the call's trace has it in full."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_SECRETS = (
    # Digest answers and bearer tokens (RFC 3261 s.20.7, s.20.28): the scheme may be read. A tab may have been made
    # visible before, and a folded value goes on in the next line.
    re.compile(
        r"(?im)^(?P<keep>(?:[<>] )?(?:proxy-)?authorization(?:[ \t]|\\t)*+:(?:[ \t]|\\t)*+"
        r"(?:[\w-]{1,32}(?:[ \t]|\\t)+)?)"
        r"(?:[^\r\n]+|(?=\r?\n(?:[<>] )?(?:[ \t]|\\t)))(?:\r?\n(?:[<>] )?(?:[ \t]|\\t)[^\r\n]*)*+"
    ),
    re.compile(
        r"(?i)(?P<keep>\b(?:password|passwd|secret|token|auth_pass|response|cnonce)=)"
        r"(?:\"[^\"]{0,1024}\"|[^\s,;\"]{1,1024})"
    ),
    # SRTP master keys of SDES (RFC 4568 s.9.1) and ICE passwords (RFC 8839 s.5.4).
    re.compile(r"(?i)(?P<keep>\binline:)[A-Za-z0-9+/=]{8,256}"),
    re.compile(r"(?i)(?P<keep>\ba=ice-pwd:)[A-Za-z0-9+/]{4,256}"),
    # sip:alice:secret@host (RFC 3261 s.19.1.1).
    re.compile(r"(?i)(?P<keep>\bsips?:[^\s:@<>;\"]{1,128}:)[^\s@<>\"]{1,128}(?=@)"),
)
_CHEAP_HINTS = (
    "authorization",
    "passw",
    "secret",
    "token",
    "auth_pass",
    "response=",
    "inline:",
    "ice-pwd",
    "@",
)
_PLAIN_VALUE = re.compile(r"[^\s\"=\\]+")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def redact(text: str) -> str:
    """`text` with credentials, keys and passwords replaced by `[redacted]`."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _CHEAP_HINTS):
        return text
    for secret in _SECRETS:
        text = secret.sub(r"\g<keep>[redacted]", text)
    return text


def visible(text: str) -> str:
    """`text` on one line without anything that a terminal obeys: controls of both sets, and what turns the
    direction of writing or takes no room."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _NAMED.get(one) or _escaped(ord(one)) for one in text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_fields(fields: Mapping[str, object]) -> str:
    """`fields` as `key=value key="two words"`. What a peer sent cannot start a new line or a new field."""
    return " ".join(f"{key}={_format_value(value)}" for key, value in fields.items() if value is not None)


def _format_value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if _PLAIN_VALUE.fullmatch(text) and text.isprintable():
        return text
    escaped = visible(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{escaped}"'


class Log:
    """A logger bound to a call and a leg: `log.info("call answered", status=200)`."""

    __slots__ = ("_call", "_leg", "_logger")

    def __init__(self, logger: logging.Logger, call: str = "-", leg: str = "-") -> None:
        self._logger = logger
        self._call = call
        self._leg = leg

    def bind(self, call: str, leg: str = "-") -> "Log":
        """The same logger for one call, or for one leg of it."""
        return Log(self._logger, call, leg)

    @property
    def debugging(self) -> bool:
        """Whether DEBUG is on: ask before building something expensive for it."""
        return self._logger.isEnabledFor(logging.DEBUG)

    @property
    def informing(self) -> bool:
        """Whether INFO is on."""
        return self._logger.isEnabledFor(logging.INFO)

    def debug(self, message: str, /, **fields: object) -> None:
        """What a developer wants to see."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._write(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        """One line for one event of a call or of the process."""
        if self._logger.isEnabledFor(logging.INFO):
            self._write(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        """A peer's fault, or something that the operator should look at."""
        if self._logger.isEnabledFor(logging.WARNING):
            self._write(logging.WARNING, message, fields)

    def error(self, message: str, /, error: BaseException | None = None, **fields: object) -> None:
        """Our own fault; `error` adds its traceback."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._write(logging.ERROR, message, fields, error)

    def message(self, direction: str, data: bytes, /, **fields: object) -> None:
        """A whole SIP message at DEBUG, every line behind `<` (it came) or `>` (it goes)."""
        if not self._logger.isEnabledFor(logging.DEBUG):
            return
        lines = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").rstrip("\n").split("\n")
        title = f"{direction} {visible(lines[0][:TRACE_LINE_LIMIT])}"
        body = [f"{direction} {visible(line[:TRACE_LINE_LIMIT])}" for line in lines]
        self._write(logging.DEBUG, title, fields, None, "\n".join(body))

    def _write(
        self,
        level: int,
        message: str,
        fields: dict[str, object],
        error: BaseException | None = None,
        body: str = "",
    ) -> None:
        named = {"call": fields.pop("call", self._call), "leg": fields.pop("leg", self._leg), **fields}
        # Not Logger.log: it would walk the stack for the line of the source, which is not shown.
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        extra = {"fields": named, "body": body}
        logger = self._logger
        logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (), exc_info, extra=extra))


class OperatorFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO call answered call=c-1 leg=a status=200`.

    `stamped` is false where the journal adds the time by itself.
    """

    def __init__(self, stamped: bool = True) -> None:
        super().__init__()
        self._stamped = stamped
        # The text of a second is used for all its lines: strftime would be a quarter of their cost.
        self._second = -1
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text, with secrets redacted."""
        fields = getattr(record, "fields", None) or {"call": "-", "leg": "-", "from": record.name}
        message = visible(record.getMessage())
        text = f"{record.levelname} {message} {format_fields(fields)}"
        if self._stamped:
            second = int(record.created)
            if second != self._second:
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            text = f"{self._second_text}.{int(record.msecs):03d}Z {text}"
        body = getattr(record, "body", "")
        if body:
            text = f"{text}\n{body}"
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info).split("\n")  # an exception may quote a peer
            text = "\n".join((text, *map(visible, trace)))
        return redact(text)


class LogOutput(logging.Handler):
    """Writes to a file that can be reopened after rotation, or to a stream; a full disk never ends a call."""

    def __init__(self, path: str | None, stream: IO[str] | None = None, stamped: bool = True) -> None:
        super().__init__()
        self.path = path
        self.dropped = 0
        self.setFormatter(OperatorFormatter(stamped))
        self._stream: IO[str] = stream if stream is not None else sys.stderr
        if path is not None:
            self._stream = _open_append(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what cannot be written is counted in `dropped`."""
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.dropped += 1

    def reopen(self) -> None:
        """Open the path again, after rotation (SIGHUP). OSError leaves the old one open."""
        if self.path is None:
            return
        fresh = _open_append(self.path)
        with self.lock if self.lock is not None else contextlib.nullcontext():
            old, self._stream = self._stream, fresh
        with contextlib.suppress(OSError):
            old.close()

    def close(self) -> None:
        """Close the file; a stream that was given stays open."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
        super().close()


def _open_append(path: str) -> IO[str]:
    # 0640: the log names callers and called numbers.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


class LogFile:
    """What the process writes its log to: set up at start, changed at reload, closed at the end."""

    def __init__(self, level: str, path: str | None, stream: IO[str] | None = None) -> None:
        self._root = logging.getLogger()
        self._stream = stream
        self._before = self._root.level
        self._output = self._make(path)
        self._root.addHandler(self._output)
        self._root.setLevel(LEVELS[level])

    def change(self, level: str, path: str | None) -> None:
        """Take another level and file. Raises OSError, and then nothing has changed."""
        if path != self._output.path:
            fresh = self._make(path)
            self._root.addHandler(fresh)
            self._root.removeHandler(self._output)
            self._output.close()
            self._output = fresh
        self._root.setLevel(LEVELS[level])

    def reopen(self) -> None:
        """After rotation. Raises OSError, and then the old file stays in use."""
        self._output.reopen()

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._output.dropped

    def close(self) -> None:
        """Give `logging` back as it was found."""
        self._root.removeHandler(self._output)
        self._root.setLevel(self._before)
        self._output.close()

    def _make(self, path: str | None) -> LogOutput:
        under_journal = path is None and self._stream is None and "JOURNAL_STREAM" in os.environ
        return LogOutput(path, self._stream, stamped=not under_journal)


def get_log(name: str) -> Log:
    """The log of one part of the process, not yet bound to a call."""
    return Log(logging.getLogger(name))
