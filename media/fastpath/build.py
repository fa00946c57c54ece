"""Compiles the kernel program, at build time only: `python -m media.fastpath.build` writes it beside its source."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("rtp.bpf.c")
OBJECT = Path(__file__).with_name("rtp.bpf.o")

DEADLINE_S = 120.0


def compile_command(clang: str, out: Path) -> list[str]:
    """The command that compiles the program to `out`; warnings are errors."""
    command = [clang, "-target", "bpf", "-mcpu=v2", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    # The kernel's headers for user space include <asm/types.h>, which Debian keeps apart for each architecture.
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        command += ["-idirafter", f"/usr/include/{multiarch}"]
    return [*command, "-c", str(SOURCE), "-o", str(out)]


def build(out: Path = OBJECT) -> str | None:
    """Compile the program to `out`; None when that went well, else in one sentence why not."""
    clang = shutil.which("clang")
    if clang is None:
        return "clang is not installed, so the kernel program was not compiled"
    # Never half a file under the final name: a process may be starting at this moment.
    fresh = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            compile_command(clang, fresh), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            return f"clang cannot compile the kernel program: {first}"
        fresh.replace(out)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"clang cannot compile the kernel program: {error}"
    finally:
        fresh.unlink(missing_ok=True)
    return None


if __name__ == "__main__":
    failure = build()
    if failure is not None:
        sys.exit(failure)
