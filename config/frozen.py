"""Values that cost little to make."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A data class with slots that is frozen for mypy and not at run time; equal and hashable by its fields.
    A class may bring a cheaper `__hash__`.

    `@dataclass(frozen=True)` sets each field by a call, which makes an instance three times as dear. A call makes some
    150 effects, events and decisions: for those mypy is guard enough.
    """
    return dataclass(slots=True, unsafe_hash="__hash__" not in cls.__dict__)(cls)
