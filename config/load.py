"""From a file to a `Config`: read, validate, check, and report every mistake at once."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.check import check
from config.document import MAX_BYTES, Document, child, decode, read_document
from config.model import Config
from config.problems import ConfigError, Problem
from config.secret import Secrets
from config.timing import written
from config.values import Float, Int, Model, keys_of, quoted

CONFIDENTIAL = frozenset({"credentials", "ha1", "password", "secret", "turn", "users"})
"""Keys below which nothing is shown: what stands in the wrong place there may still be a secret."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a file: the configuration unless there are errors, and all problems, warnings too."""

    config: Config | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep it from being used."""
        return tuple(problem for problem in self.problems if problem.level == "error")


@dataclass(slots=True)
class Salvage:
    """What could be read of a file with mistakes, so that the rest of it can be checked in the same run."""

    config: Config | None = None
    broken: set[str] = field(default_factory=set)
    route_numbers: tuple[int, ...] = ()


def load(path_or_text: str | Path, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in a file (or in a text, which is told by its line breaks); raises ConfigError."""
    report = examine(path_or_text, environment)
    if report.config is None:
        raise ConfigError(report.errors)
    return report.config


def examine(path_or_text: str | Path, environment: Mapping[str, str] | None = None) -> Report:
    """Everything that can be said about a file without using it. Never raises on bad input."""
    environment = os.environ if environment is None else environment
    try:
        if isinstance(path_or_text, str) and "\n" in path_or_text:
            file, text, folder = "<text>", decode(path_or_text.encode("utf-8", "replace"), "<text>"), Path()
        else:
            file = str(path_or_text)
            text, folder = decode(_read(file), file), Path(file).parent
        document = read_document(text, file, Secrets(environment, folder))
    except ConfigError as error:
        return Report(None, tuple(error.problems))
    return _report(document)


def _without_secrets(document: Document, problem: Problem) -> Problem:
    message = problem.message
    for value in sorted(set(document.hidden.values()) - {""}, key=len, reverse=True):
        message = message.replace(value, "(hidden)")
    return replace(problem, message=message)


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except IsADirectoryError:
        message = "this is a directory; write the path of a YAML file"
    except FileNotFoundError:
        message = "there is no such file; write the path of a YAML file"
    except (OSError, ValueError) as error:
        message = (
            f"the file cannot be read ({getattr(error, 'strerror', None) or error}); correct its path or mode"
        )
    raise ConfigError([Problem(file, 1, 1, "", message)])


def _report(document: Document) -> Report:
    problems = list(document.problems)
    salvage = Salvage()
    if isinstance(document.value, dict):
        salvage = _validate(document, problems)
        if salvage.config is not None:
            found = check(salvage.config, frozenset(salvage.broken), salvage.route_numbers)
            problems.extend(_without_secrets(document, problem) for problem in found)
    elif not problems:
        what = "is empty" if document.value is None else "holds no keys"
        problems.append(
            Problem(
                document.file, 1, 1, "", f"the file {what}; write at least networks:, trunks: and routes:"
            )
        )
    problems.sort(key=lambda problem: (problem.line, problem.column, problem.key))
    failed = any(problem.level == "error" for problem in problems)
    return Report(None if failed else salvage.config, tuple(problems))


def _validate(document: Document, problems: list[Problem]) -> Salvage:
    data = _prepare(document, problems)
    salvage = Salvage(
        route_numbers=tuple(range(len(data["routes"]))) if isinstance(data.get("routes"), list) else ()
    )
    # What is wrong is reported, taken out, and the rest validated again. What a later pass finds is only that
    # something is missing now.
    for attempt in range(4):
        try:
            salvage.config = Config.model_validate(data).with_marks(document.marks)
            return salvage
        except ValidationError as error:
            details = error.errors(include_url=False)
        if attempt == 0:
            known = {(problem.line, problem.key) for problem in problems}
            found = dict.fromkeys(_problem(document, detail) for detail in details)
            problems.extend(problem for problem in found if (problem.line, problem.key) not in known)
        if not _take_out(data, details, salvage):
            break
    return salvage


def _prepare(document: Document, problems: list[Problem]) -> dict[str, Any]:
    """The sections of the document, without empty ones, with what the models know and the file does not say."""
    assert isinstance(document.value, dict)
    data: dict[str, Any] = {key: value for key, value in document.value.items() if value is not None}
    data = _without_internal(document, data, Config, "", problems)
    if isinstance(data.get("routes"), list):
        data["routes"] = [
            {**route, "line": document.marks[f"routes[{index}]"][0]} if isinstance(route, dict) else route
            for index, route in enumerate(data["routes"])
        ]
    return {**data, "path": document.file}


def _without_internal(
    document: Document, value: Any, model: type[Model], path: str, problems: list[Problem]
) -> Any:
    """`value` without fields of `model` that are no keys; every such is a problem."""
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    keys = keys_of(model)
    for key, entry in value.items():
        full = child(path, key)
        if key in model.model_fields and key not in keys:
            problems.append(Problem(document.file, *document.marks[full], full, _unknown(key, model)))
            continue
        kept[key] = entry
        inner = _inner(keys[key].annotation) if key in keys else None
        if inner is None:
            continue
        if isinstance(entry, list):
            kept[key] = [
                _without_internal(document, item, inner, f"{full}[{index}]", problems)
                for index, item in enumerate(entry)
            ]
        elif isinstance(entry, dict) and _is_mapping(keys[key].annotation):
            kept[key] = {
                name: _without_internal(document, item, inner, child(full, name), problems)
                for name, item in entry.items()
            }
        else:
            kept[key] = _without_internal(document, entry, inner, full, problems)
    return kept


def _inner(annotation: object) -> type[Model] | None:
    """The model that an annotation is made of: Trunk of `dict[Name, Trunk]`, Check of `Check | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part)) is not None), None)


def _is_mapping(annotation: object) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(part) for part in get_args(annotation))


def _take_out(data: dict[str, Any], details: list[ErrorDetails], salvage: Salvage) -> bool:
    """Remove what is wrong; False when nothing could be removed."""
    routes: set[int] = set()
    removed = False
    for detail in details:
        match detail["loc"]:
            case ("trunks", str() as name, str() as key, *_) if _has(data, "trunks", name, key):
                # Without one key a trunk can still be compared with the rest; no other check looks at defaults here.
                del data["trunks"][name][key]
                removed = True
            case ("phones", "users", str() as name, *_) if _has(data, "phones", "users", name):
                del data["phones"]["users"][name]
                salvage.broken.add("phones.users")
                removed = True
            case ("phones", "network" | "registrar", *_):
                # Nothing can be said of phones without these two.
                removed |= data.pop("phones", None) is not None
                salvage.broken.add("phones")
            case ("networks" | "trunks" as section, str() as name, *_) if isinstance(data.get(section), dict):
                removed |= data[section].pop(name, None) is not None
                salvage.broken.add(f"{section}.{name}")
            case ("routes", int() as index, *_):
                routes.add(index)
            case (str() as section, str() as key, *_) if isinstance(data.get(section), dict):
                removed |= data[section].pop(key, None) is not None
                salvage.broken.add(f"{section}.{key}")
            case (str() as section, *_):
                removed |= data.pop(section, None) is not None
                salvage.broken.add(section)
    if routes:
        kept = [index for index in range(len(data["routes"])) if index not in routes]
        data["routes"] = [data["routes"][index] for index in kept]
        salvage.route_numbers = tuple(salvage.route_numbers[index] for index in kept)
        salvage.broken.add("routes")
    return removed or bool(routes)


def _has(data: dict[str, Any], section: str, name: str, key: str) -> bool:
    entries = data.get(section)
    return isinstance(entries, dict) and isinstance(entries.get(name), dict) and key in entries[name]


# -- what pydantic says, in the words of an operator ---------------------------------------------------------


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    loc = detail["loc"]
    key = ""
    for step in loc:
        if step == "[key]":
            break
        longer = f"{key}[{step}]" if isinstance(step, int) else child(key, str(step))
        if longer not in document.marks and detail["type"] != "missing":
            break
        key = longer
    mark = key if key in document.marks else key[: max(key.rfind("."), 0)]
    line, column = document.marks.get(mark, (1, 1))
    if any(_within(key, hidden) or _within(hidden, key) for hidden in document.hidden):
        message = "the value from outside does not fit here; " + _expected(loc)
    else:
        message = _message(detail)
    return Problem(document.file, line, column, key, message)


def _within(key: str, other: str) -> bool:
    return key == other or key.startswith((f"{other}.", f"{other}["))


def _expected(loc: tuple[int | str, ...]) -> str:
    names = [step for step in loc if isinstance(step, str)]
    model = _model_at(loc[:-1] if isinstance(loc[-1], str) else loc[:-2])
    for name, info in model.model_fields.items():
        if names and names[-1] in (name, info.validation_alias) and info.description:
            return f"expected: {info.description}"
    return "correct the variable or file that it comes from"


def _model_at(loc: tuple[int | str, ...]) -> type[Model]:
    """The model whose keys stand at `loc`."""
    model: type[Model] = Config
    is_name = False
    for step in loc:
        if is_name or isinstance(step, int):
            is_name = False
            continue
        info = keys_of(model).get(step)
        inner = None if info is None else _inner(info.annotation)
        if info is None or inner is None:
            break
        model, is_name = inner, _is_mapping(info.annotation)
    return model


def _unknown(key: str, model: type[Model]) -> str:
    keys = list(keys_of(model))
    near = difflib.get_close_matches(key.lower().replace("-", "_"), keys, 1, 0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; the keys here are {', '.join(keys)}"


def shown(value: object) -> str:
    """A value of the file as a message shows it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case Int() | Float():
            return value.text
        case str():
            return quoted(value)
        case list() | tuple():
            return "a list"
        case dict():
            return "a group of keys"
    return quoted(str(value))


_NAME_RULE = "write letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63"


def _message(detail: ErrorDetails) -> str:
    kind, context, loc = detail["type"], detail.get("ctx", {}), detail["loc"]
    confidential = loc[-1:] != ("[key]",) and not CONFIDENTIAL.isdisjoint(loc)
    value = "what stands here" if confidential else shown(detail["input"])
    match kind:
        case "extra_forbidden":
            return _unknown(str(loc[-1]), _model_at(loc[:-1]))
        case "missing":
            return f"this key is missing; {_expected(loc)}"
        case "literal_error":
            return _choice(detail)
        case "int_type" | "int_from_float" | "int_parsing":
            return f"{value} is not a whole number; write one without quotation marks, unit or leading zero"
        case "float_type" | "float_parsing":
            return f"{value} is not a number; write one without quotation marks or unit, like 30 or 0.5"
        case "string_type":
            hint = (
                f'write it in quotation marks: "{value}"'
                if isinstance(detail["input"], bool) and not confidential
                else "write text"
            )
            return f"{value} is not text; {hint}"
        case "bool_type":
            return f"{value} is neither true nor false; write one of them"
        case "tuple_type":
            return f"{value} is not a list; write one like [a, b]"
        case "dict_type" | "model_type" | "model_attributes_type":
            if confidential:
                return "a value stands here instead of keys; write keys below it, each as key: value"
            return f"{value} stands here instead of keys; write keys below it, each as key: value"
        case "greater_than_equal":
            return f"{value} is too small; write {written(context['ge'])} or more"
        case "greater_than":
            return f"{value} is too small; write more than {written(context['gt'])}"
        case "less_than_equal":
            return f"{value} is too large; write {written(context['le'])} or less"
        case "too_long":
            elsewhere = ", or phones.users_file" if loc[-2:] == ("phones", "users") else ""
            return f"there are more than {context['max_length']} entries; write fewer{elsewhere}"
        case "too_short":
            return f"it is empty; write at least {context['min_length']}"
        case "string_too_short":
            return "the text is empty; write some, or take the key out"
        case "string_too_long":
            return f"the text is longer than {context['max_length']} characters; write a shorter one"
        case "string_pattern_mismatch" if loc[-1] == "reason":
            return "a reason phrase is one line; write it without line breaks"
        case "string_pattern_mismatch" if "codecs" in loc:
            return f"{value} is no encoding name; write one like PCMA, PCMU, G722 or opus"
        case "string_pattern_mismatch":
            return f"{value} is no name; {_NAME_RULE}"
    return detail["msg"]


def _choice(detail: ErrorDetails) -> str:
    allowed = detail["ctx"]["expected"].replace("'", "")
    given = detail["input"]
    choices = allowed.replace(" or ", ", ").split(", ")
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(given.lower(), lower, 1, 0.6) if isinstance(given, str) else []
    hint = f" (did you mean {lower[near[0]]}?)" if near else ""
    return f"{shown(given)} is none of the choices; write {allowed}{hint}"
