"""What a reload changes, in words."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, SecretStr

from config.model import Config, Phones, Route
from config.values import is_key


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    key: str
    kind: Literal["added", "removed", "changed"]
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        match self.kind:
            case "changed":
                return f"{self.key}: {self.before} -> {self.after}"
            case "added":
                return f"{self.key}: added{f' {self.after}' if self.after else ''}"
            case "removed":
                return f"{self.key}: removed{f' {self.before}' if self.before else ''}"


def difference(old: Config, new: Config) -> tuple[Change, ...]:
    """Every change from `old` to `new`, in the order of the keys; the place of a route in its file is none."""
    return (
        *_entries("networks", old.networks, new.networks),
        *_entries("trunks", old.trunks, new.trunks),
        *_phones(old.phones, new.phones),
        *_routes(old.routes, new.routes),
        *(
            change
            for section in ("emergency", "limits", "timers", "media", "topology", "log", "control")
            for change in _fields(section, getattr(old, section), getattr(new, section))
        ),
    )


def _entries(section: str, old: Mapping[str, BaseModel], new: Mapping[str, BaseModel]) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        key = f"{section}.{name}"
        if name not in new:
            yield Change(key, "removed")
        elif name not in old:
            yield Change(key, "added")
        else:
            yield from _fields(key, old[name], new[name])


def _phones(old: Phones | None, new: Phones | None) -> Iterator[Change]:
    if old is None or new is None:
        if new is not old:
            kind: Literal["added", "removed"] = "added" if old is None else "removed"
            yield Change("phones", kind)
        return
    yield from _fields("phones", old, new)


def _fields(key: str, old: BaseModel, new: BaseModel) -> Iterator[Change]:
    for name, info in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if before == after or not is_key(info):
            continue
        full = f"{key}.{info.serialization_alias or name}"
        if isinstance(before, BaseModel) and type(before) is type(after) and name != "turn":
            yield from _fields(full, before, after)
            continue
        if isinstance(before, dict) and isinstance(after, dict) and name != "ha1":
            yield from _entries(full, before, after)
            continue
        yield Change(full, "changed", written(before), written(after))


def _routes(old: tuple[Route, ...], new: tuple[Route, ...]) -> Iterator[Change]:
    before, after = [_route(route) for route in old], [_route(route) for route in new]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "replace" and i2 - i1 == j2 - j1:
            for i, j in zip(range(i1, i2), range(j1, j2), strict=True):
                yield Change(f"routes[{j}]", "changed", before[i], after[j])
        elif tag != "equal":
            for i in range(i1, i2):
                yield Change(f"routes[{i}]", "removed", before[i])
            for j in range(j1, j2):
                yield Change(f"routes[{j}]", "added", after=after[j])


def _route(route: Route) -> str:
    plain = route.model_copy(update={"line": 0})
    values = {
        str(info.serialization_alias or name): getattr(plain, name)
        for name, info in Route.model_fields.items()
        if name == "from_" or getattr(plain, name) != info.default
    }
    return "{" + ", ".join(f"{key}: {written(value)}" for key, value in values.items()) + "}"


def written(value: object) -> str:
    """A value as the file would have it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.15g}"
        case SecretStr():
            return "(hidden)"
        case dict():
            return "{" + ", ".join(f"{key}: {written(item)}" for key, item in value.items()) + "}"
        case tuple():
            return f"[{', '.join(written(item) for item in value)}]"
        case BaseModel() if type(value).__str__ is BaseModel.__str__:
            fields = ((name, getattr(value, name)) for name in type(value).model_fields)
            return "{" + ", ".join(f"{name}: {written(item)}" for name, item in fields) + "}"
    return str(value)
