"""Values from outside the file: `${NAME}` from the environment, `${file:path}` from a file.

Inside [ ] and { } YAML wants quotation marks round them. `$${` stands for a `${` that is meant literally.
Values are never shown: mistakes name where they came from.
"""

import re
from collections.abc import Mapping
from pathlib import Path

MAX_SECRET_BYTES = 65_536

_REFERENCE = re.compile(r"\$?\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Secrets:
    """Where values come from: an environment, and the folder that relative file names start at."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder

    def resolve(self, text: str) -> tuple[str, list[str]]:
        """`text` with its references replaced, and what is wrong with them."""
        mistakes: list[str] = []

        def value(found: re.Match[str]) -> str:
            if found[0].startswith("$$"):
                return found[0][1:]
            if not found[2]:
                mistakes.append(
                    "${ without }; write ${NAME}, ${file:path}, or $${ for the characters themselves"
                )
                return ""
            reference = found[1].strip()
            result = (
                self._file(reference[5:].strip())
                if reference.startswith("file:")
                else self._variable(reference)
            )
            if isinstance(result, _Mistake):
                mistakes.append(result.message)
                return ""
            return result

        resolved = _REFERENCE.sub(value, text)
        return resolved, mistakes

    def _variable(self, name: str) -> "str | _Mistake":
        if not _NAME.fullmatch(name):
            return _Mistake("${...} holds no name of a variable; write ${NAME} or ${file:path}")
        if name not in self._environment:
            return _Mistake(
                f"the environment variable {name} is not set; set it before the start, or write the value"
            )
        return self._environment[name]

    def _file(self, name: str) -> "str | _Mistake":
        if not name:
            return _Mistake("${file:} without a path; write ${file:/path/to/it}")
        try:
            with (self._folder / name).open("rb") as file:
                data = file.read(MAX_SECRET_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a usable path"
            return _Mistake(
                f"the secret file {_printable(name)} cannot be read ({reason}); correct the path or its mode"
            )
        if len(data) > MAX_SECRET_BYTES:
            return _Mistake(f"the secret file {_printable(name)} is longer than {MAX_SECRET_BYTES} bytes")
        try:
            return data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            return _Mistake(f"the secret file {_printable(name)} is not UTF-8; save it as UTF-8")


class _Mistake:
    def __init__(self, message: str) -> None:
        self.message = message


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])
