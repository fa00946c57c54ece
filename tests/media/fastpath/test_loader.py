"""Loading and attaching: what goes wrong is one clear sentence, and nothing is left behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from media.fastpath import bpf, build, elf, table
from media.fastpath.bpf import verdict
from media.fastpath.loader import FastPath, Loaded, Unavailable, obstacle
from tests.harness.capabilities import CAP_BPF, CAP_NET_ADMIN
from tests.media.fastpath.kernel import Kernel


def test_without_the_object_it_says_where_it_comes_from(tmp_path: Path) -> None:
    assert obstacle(tmp_path / "rtp.bpf.o") == (
        "rtp.bpf.o is not there: it is compiled when the package is built where clang is installed"
    )


def test_a_damaged_object_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "rtp.bpf.o"
    path.write_bytes(b"\x7fELF")
    assert obstacle(path) == "rtp.bpf.o is damaged: not a 64-bit ELF file"


def test_a_directory_is_no_object(tmp_path: Path) -> None:
    assert obstacle(tmp_path) == f"{tmp_path.name} cannot be read: Is a directory"


def test_an_object_of_another_version_is_not_used(
    kernel: Kernel, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was left behind by an upgrade, whose flows are laid out in another way."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(table, "FLOW_BYTES", table.FLOW_BYTES + 8)
    assert obstacle(compiled) == "rtp.bpf.o is of another version than the rest of this installation"
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_capabilities_it_says_which(kernel: Kernel, compiled: Path) -> None:
    assert (
        _as_nobody(compiled) == "the process may not load the map 'flows': it needs CAP_BPF and CAP_NET_ADMIN"
    )
    assert (
        _as_nobody(compiled, CAP_BPF)
        == "the process may not load the program: it needs CAP_BPF and CAP_NET_ADMIN"
    )


def test_two_capabilities_are_enough(kernel: Kernel, compiled: Path) -> None:
    """What the systemd unit can give. CAP_PERFMON would let the verifier accept more than it does here."""
    assert _as_nobody(compiled, CAP_BPF, CAP_NET_ADMIN) == "None"


def test_another_clock_is_noticed(kernel: Kernel, compiled: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from media.fastpath.loader import obstacle\n"
        "print(obstacle(Path(sys.argv[1])))"
    )
    command = ["unshare", "--fork", "--time", "--monotonic", "1000", sys.executable, "-c", script]
    done = subprocess.run([*command, str(compiled)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"machine: no time namespaces: {done.stderr.strip()[-100:]}")
    assert done.stdout.strip() == "the clock of this process is not the kernel's own (a time namespace)"


def _as_nobody(compiled: Path, *capabilities: int) -> str:
    """What `obstacle` says in another process, of a user who cannot even read the directory of this run."""
    script = (
        "from pathlib import Path; from media.fastpath.loader import obstacle\n"
        "from tests.harness.capabilities import become_nobody\n"
        f"path = Path({str(compiled)!r}); data = path.read_bytes(); become_nobody(*{capabilities!r})\n"
        "Path.read_bytes = lambda self: data\n"
        "print(obstacle(path))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_filter_of_system_calls_is_told_from_a_lack_of_capabilities(
    kernel: Kernel, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both capabilities EPERM has another reason."""

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(bpf._System, "run", forbidden)
    assert obstacle(compiled) == (
        "the process may not load the map 'flows': something forbids bpf (with systemd: SystemCallFilter=bpf)"
    )


def test_the_verifier_is_heard_out(kernel: Kernel) -> None:
    """An instruction that no program may have: read of a register that was never written, then exit."""
    code = (
        bytes.fromhex("bf10000000000000")
        + bytes.fromhex("bf20000000000000")
        + bytes.fromhex("9500000000000000")
    )
    with pytest.raises(bpf.Refused, match=r"^the kernel's verifier refuses the program: R2 !read_ok$"):
        bpf.load(elf.Program(code, (), (), b"Apache-2.0"), {}, "test")


def test_an_empty_log_leaves_the_error_to_speak() -> None:
    error = OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    assert verdict("", error) == "the kernel's verifier refuses the program: Argument list too long"
    assert (
        verdict("R1 bad\nprocessed 3 insns\n", error) == "the kernel's verifier refuses the program: R1 bad"
    )


def test_loopback_and_addresses_of_nobody_are_named(kernel: Kernel, compiled: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable) as refused:
        FastPath(["127.0.0.1", "192.0.2.77", "127.0.0.1"], compiled)
    assert str(refused.value) == (
        "lo, which has 127.0.0.1, is not Ethernet; no interface has the address 192.0.2.77"
    )
    with pytest.raises(Unavailable, match="there is no address to attach it to"):
        FastPath([], compiled)
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_stays_open(kernel: Kernel, compiled: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    loaded = Loaded(compiled)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    loaded.close()
    loaded.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_machine_without_clang_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.build(tmp_path / "out.o") == "clang is not installed, so the kernel program was not compiled"


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clang = tmp_path / "clang"
    clang.write_text("#!/bin/sh\necho 'rtp.bpf.c:1:10: fatal error: no such file' >&2\nexit 1\n")
    clang.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert build.build(tmp_path / "out.o") == (
        "clang cannot compile the kernel program: rtp.bpf.c:1:10: fatal error: no such file"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clang"]
