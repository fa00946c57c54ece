"""The units: hardened as promised, and understood by systemd where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from config.model import Control, Timers

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "systemd" / "sbc.service"
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE_LIMIT = 20
"""systemd's exposure level times ten, 0 to 100; below this is as good as a network daemon gets."""

needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="machine: systemd-analyze is not installed (apt-get install systemd)"
)


def settings() -> dict[str, list[str]]:
    """Every setting of the [Service] section with its values in order."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().split("[Service]")[1].split("[Install]")[0]
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("User", "sbc"),
        ("NoNewPrivileges", "yes"),
        ("AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
        ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("KillMode", "mixed"),
    ],
)
def test_setting(key: str, value: str) -> None:
    assert settings()[key] == [value]


def test_watchdog_is_on() -> None:
    assert int(settings()["WatchdogSec"][0]) > 0


def test_python_takes_no_module_from_the_working_directory() -> None:
    assert "PYTHONSAFEPATH=1" in settings()["Environment"][0].split()


def test_stop_waits_for_the_whole_drain() -> None:
    """The default of `timers.drain_s` and the time for our BYEs fit into TimeoutStopSec."""
    assert int(settings()["TimeoutStopSec"][0]) >= Timers().drain_s + 30


def test_kernel_media_path_has_a_drop_in_of_its_own() -> None:
    assert "CAP_BPF" not in UNIT.read_text()
    added = (ROOT / "systemd" / "sbc-kernel.conf").read_text()
    kept = settings()
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (line,) = re.findall(rf"^{key}=(.*)$", added, re.M)
        assert set(line.split()) == {*kept[key][0].split(), "CAP_BPF", "CAP_NET_ADMIN"}
    assert re.search(r"^SystemCallFilter=bpf$", added, re.M)


def test_the_control_socket_lies_in_the_directory_that_the_unit_makes() -> None:
    directory = settings()["RuntimeDirectory"][0]
    assert Control().socket.startswith(f"/run/{directory}/")


@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With the program replaced by one that is there: systemd refuses a unit whose program is missing."""
    assert ANALYZE is not None
    unit = tmp_path / "sbc.service"
    unit.write_text(UNIT.read_text().replace("/opt/sbc/bin/sbc", "/bin/true"))
    result = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in result.stderr.splitlines() if "sbc.service" in line]
    assert (result.returncode, complaints) == (0, [])


@needs_systemd
def test_exposure_is_low(tmp_path: Path) -> None:
    assert ANALYZE is not None
    result = subprocess.run(
        [ANALYZE, "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-400:] + result.stderr


@pytest.mark.parametrize("file", ["sbc.sysusers", "sbc.tmpfiles"])
def test_system_files_have_whole_lines(file: str) -> None:
    lines = [x for x in (ROOT / "systemd" / file).read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    for line in lines:
        fields = re.findall(r'"[^"]*"|\S+', line)
        assert len(fields) == (6 if file == "sbc.sysusers" else 7), line
        assert fields[0] in ("u", "d")
