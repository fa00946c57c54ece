"""The repository keeps its own rules: package chain, packages listed, files in their places."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from config.load import examine

ROOT = Path(__file__).parent.parent
FACES = {
    "signaling.resolver",
    "signaling.transport.refusals",
    "signaling.transport.arrival",
    "signaling.transport.stream",
    "signaling.transport.udp",
    "signaling.transport.wires",
}
"""Modules of signaling that touch sockets or the loop."""
PACKAGES = ("sbc", "signaling", "media", "nat", "config")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """Files that git knows, or every file where there is no git (an unpacked archive)."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_every_folder_of_tests_is_a_package() -> None:
    """style.md s.11: a gap in the chain lets `tests/signaling` hide `signaling`."""
    folders = {
        path.parent for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")
    }
    missing = [
        str(parent.relative_to(ROOT))
        for folder in folders
        for parent in (folder, *folder.parents)
        if parent.is_relative_to(ROOT / "tests") and not (parent / "__init__.py").exists()
    ]
    assert missing == []


def test_every_package_with_code_is_listed() -> None:
    """A package that pyproject.toml forgets works in the checkout and is missing once installed."""
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in tracked()
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in PACKAGES
    }
    setuptools = project()["tool"]["setuptools"]
    assert sorted(on_disk) == sorted(setuptools["packages"])


def test_every_target_of_the_makefile_that_people_are_told_of_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    told = {
        name
        for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / ".ci" / "run")
        for words in re.findall(r"\bmake ((?:[a-z]+ ?)+)(?=[`\n]|ONCE)", path.read_text())
        for name in words.split()
    }
    assert "run" in told
    assert told <= targets


def test_every_module_of_signaling_is_a_core_or_named_as_a_face() -> None:
    """A new module must not slip past the contract of .importlinter that cores do no I/O."""
    contract = (ROOT / ".importlinter").read_text()
    cores = set(re.findall(r"^    (signaling\.[a-z0-9_.]+)$", contract, re.M))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in tracked()
        if path.suffix == ".py"
        and path.name != "__init__.py"
        and path.relative_to(ROOT).parts[0] == "signaling"
    }
    covered = {name for name in modules for core in cores if name == core or name.startswith(f"{core}.")}
    assert modules - covered == FACES


def test_the_integration_runs_the_targets_of_everybody() -> None:
    assert "make check test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"])
def test_file_of_the_front_page(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_the_readme_shows_only_configurations_that_pass_the_check(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for number, block in enumerate(blocks):
        file = tmp_path / f"readme-{number}.yaml"
        file.write_text(block)
        assert [str(problem) for problem in examine(file).problems] == []


def test_no_absolute_path_of_a_home_or_checkout_in_tracked_files() -> None:
    pattern = re.compile(rb"/(?:home|root|work)/[a-z]")
    this = Path(__file__)
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path != this and path.is_file() and pattern.search(path.read_bytes())
    ]
    assert found == []


def test_python_of_this_run_is_the_one_we_promise() -> None:
    requires = str(project()["project"]["requires-python"])
    assert requires == ">=3.11"
    assert sys.version_info >= (3, 11)


def test_no_interpreted_class_is_made_of_a_compiled_one() -> None:
    """mypyc refuses that when the module is loaded, in an installation only."""
    compiled = {path.removesuffix(".py").replace("/", ".") for path in hot_modules()}
    wrong = []
    for path in tracked():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.suffix != ".py" or name.split(".")[0] not in PACKAGES or name in compiled:
            continue
        tree = ast.parse(path.read_text())
        taken = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module in compiled
            for alias in node.names
        }
        wrong += [
            f"{name}.{node.name}({base.id})"
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for base in node.bases
            if isinstance(base, ast.Name) and base.id in taken
        ]
    assert wrong == []


def hot_modules() -> list[str]:
    """What setup.py compiles."""
    listed = [
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("HOT", "RELAYED")
    ]
    libraries: list[dict[str, str]] = [ast.literal_eval(each) for each in listed]
    return [
        f"{package}/{name}.py"
        for library in libraries
        for package, names in library.items()
        for name in names.split()
    ]
