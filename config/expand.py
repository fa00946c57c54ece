"""What a data class and a constant are to the compiler: `setup.py` writes them out before mypyc sees them.

mypyc leaves `@frozen` classes interpreted, and `__init__` of any data class to `dataclasses`: an instance costs a
frame of the interpreter, and every attribute of it a look into a dict. With a written `__init__` they are structs.
The source keeps its form, and its line numbers: `__init__` stands in the blank line behind the class.

A name in capitals is looked up in the dict of its module each time, unless it is `Final`: then it is a variable of C.
"""

import ast
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+")
_TYPES = ("TypeVar", "NewType", "ParamSpec")


def expand_tree(packages: Iterable[str], target: Path) -> None:
    """Copy `packages` of the working directory into `target`, expanded."""
    shutil.rmtree(target, ignore_errors=True)
    for package in packages:
        shutil.copytree(package, target / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for path in target.rglob("*.py"):
        path.write_text(expand(path.read_text()))


def expand(source: str) -> str:
    """`source` with the `__init__` of each of its data classes written out, and its constants `Final`."""
    lines = source.split("\n")
    tree = ast.parse(source)
    imports = next(
        (node.lineno - 1 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)), None
    )
    if imports is None:
        return source
    changed = _fix_constants(tree, lines)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef)
            and _has_room(lines, node)
            and (written := _expanded(node)) is not None
        ):
            decorator, init = written
            lines[node.decorator_list[0].lineno - 1] = decorator
            lines[node.end_lineno or 0] = init
            changed = True
    if changed:
        lines[imports] = f"import dataclasses, typing; {lines[imports]}"
    return "\n".join(lines)


def _fix_constants(tree: ast.Module, lines: list[str]) -> bool:
    """Mark the module's constants as `Final`; returns whether there are any."""
    assigned: dict[str, list[ast.Assign | ast.AnnAssign]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(node)
    changed = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    found = False
    for name, nodes in assigned.items():
        node = nodes[0]
        value = node.value
        if (
            len(nodes) > 1
            or name in changed
            or not CONSTANT.fullmatch(name)
            or value is None
            or (isinstance(value, ast.Call) and ast.unparse(value.func) in _TYPES)
            or (isinstance(node, ast.Assign) and len(node.targets) > 1)
            or (isinstance(node, ast.AnnAssign) and "Final" in ast.unparse(node.annotation))
        ):
            continue
        line = lines[node.lineno - 1]
        rest = line[len(name) :]
        if isinstance(node, ast.Assign):
            lines[node.lineno - 1] = f"{name}: typing.Final{rest}"
        elif node.annotation.end_lineno == node.lineno and node.annotation.end_col_offset is not None:
            # Annotations are ASCII, as names are: columns count characters.
            begin, end = node.annotation.col_offset, node.annotation.end_col_offset
            lines[node.lineno - 1] = f"{name}: typing.Final[{line[begin:end]}]{line[end:]}"
        else:
            continue
        found = True
    return found


def _has_room(lines: list[str], node: ast.ClassDef) -> bool:
    """Whether a blank line stands behind a class."""
    return lines[node.end_lineno or 0 : (node.end_lineno or 0) + 1] == [""]


def _expanded(node: ast.ClassDef) -> tuple[str, str] | None:
    """The decorator and the `__init__` of a data class; None for another class, or one that must stay as it is."""
    if len(node.decorator_list) != 1 or node.bases or node.col_offset:
        return None
    decorator = node.decorator_list[0]
    name = ast.unparse(decorator).partition("(")[0]
    if name == "frozen":
        options = "unsafe_hash=True"
    elif name == "dataclass" and isinstance(decorator, ast.Call):
        words = [ast.unparse(keyword) for keyword in decorator.keywords]
        options = "eq=False" if "eq=False" in words else "unsafe_hash=True" if "frozen=True" in words else ""
    else:
        return None
    methods = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
    if methods & {"__init__", "__post_init__"}:
        return None
    if "__hash__" in methods:
        options = ""
    parameters, assignments = ["self"], []
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        parameter = f"{field.target.id}: {ast.unparse(field.annotation)}"
        value = field.target.id
        default = field.value
        if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
            given = {keyword.arg: keyword.value for keyword in default.keywords}
            default = given.get("default")
            if "default_factory" in given:
                parameter, default = f"{parameter} | None", ast.Constant(None)
                value = f"({ast.unparse(given['default_factory'])})() if {value} is None else {value}"
        parameters.append(parameter if default is None else f"{parameter} = {ast.unparse(default)}")
        assignments.append(f"self.{field.target.id} = {value}")
    init = f"    def __init__({', '.join(parameters)}) -> None: {'; '.join(assignments) or 'pass'}"
    return f"@dataclasses.dataclass(init=False{', ' + options if options else ''})", init
