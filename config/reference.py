"""The reference of all keys, made from the models, as Markdown."""

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.diff import written
from config.model import (
    Check,
    Config,
    Control,
    Credentials,
    Emergency,
    Limits,
    Log,
    Media,
    Network,
    Phones,
    PhonesTurn,
    Register,
    Reject,
    Route,
    Timers,
    Topology,
    Trunk,
    Turn,
    User,
)
from config.values import keys_of

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("networks.NAME", Network),
    ("networks.NAME.turn", Turn),
    ("trunks.NAME", Trunk),
    ("trunks.NAME.check", Check),
    ("trunks.NAME.credentials", Credentials),
    ("trunks.NAME.register", Register),
    ("phones", Phones),
    ("phones.users.NAME", User),
    ("phones.turn", PhonesTurn),
    ("routes[]", Route),
    ("routes[].reject", Reject),
    ("emergency", Emergency),
    ("limits", Limits),
    ("timers", Timers),
    ("media", Media),
    ("topology", Topology),
    ("log", Log),
    ("control", Control),
)


def markdown() -> str:
    """Every section with its keys, defaults, bounds and meanings."""
    lines = ["# Configuration reference", "", _first_paragraph(Config), ""]
    lines += ["| section | holds |", "| --- | --- |"]
    lines += [f"| `{name}` | {_cell(info.description or '')} |" for name, info in keys_of(Config).items()]
    for title, model in _SECTIONS:
        lines += ["", f"## {title}", "", _first_paragraph(model), ""]
        lines += ["| key | default | values | meaning |", "| --- | --- | --- | --- |"]
        lines += _rows(model)
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for key, info in keys_of(model).items():
        yield f"| `{key}` | {_default(info)} | {_cell(_values(info))} | {_cell(info.description or '')} |"


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None or default in ("", {}):
        return "none"
    return f"`{written(default)}`"


def _values(info: FieldInfo) -> str:
    choices = _choices(info.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    low, high = "", ""
    # Several bounds may apply (those of the type and those of the field): the tighter one holds.
    lows = [bound.ge for bound in info.metadata if isinstance(bound, Ge)]
    highs = [bound.le for bound in info.metadata if isinstance(bound, Le)]
    above = [bound.gt for bound in info.metadata if isinstance(bound, Gt)]
    below = [bound.lt for bound in info.metadata if isinstance(bound, Lt)]
    if lows or above:
        low = f"more than {above[-1]}" if above else f"{max(lows, key=_bound)}"
    if highs or below:
        high = f"below {below[-1]}" if below else f"{min(highs, key=_bound)}"
    if low and high:
        return f"{low} to {high}" if not above else f"{low}, to {high}"
    return low or high


def _bound(value: object) -> float:
    """A bound as a number to compare with others."""
    return float(str(value))


def _choices(annotation: object) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return tuple(str(choice) for choice in get_args(annotation))
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
