"""Compiles the load generator."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("phones.c")
TARGET = Path(__file__).parents[3] / "build" / "bench" / "phones"
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def phones() -> Path:
    """The generator, compiled if its source is newer. Raises CalledProcessError."""
    if not TARGET.exists() or TARGET.stat().st_mtime < SOURCE.stat().st_mtime:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        program = compiler()
        assert program is not None, "no C compiler"
        fresh = TARGET.with_suffix(".new")
        subprocess.run([program, *FLAGS, "-o", str(fresh), str(SOURCE)], check=True)
        fresh.rename(TARGET)
    return TARGET
