"""What a relay process may still do once it has started."""

import subprocess
import sys

import pytest

from tests.harness.capabilities import CAP_BPF
from tests.media.fastpath.kernel import Kernel

CAP_NET_BIND_SERVICE = 10

SCRIPT = """
import sys
from media import worker
from media.fastpath import capabilities
from tests.harness.capabilities import become_nobody
leases, privileged, needs = int(sys.argv[1]), sys.argv[2] == "root", sys.argv[3] == "needs"
if not privileged:
    become_nobody(10, 12, 39)
if needs:
    # A kernel that wants CAP_BPF even of those who have the descriptor.
    def usable(leases):
        return False
    capabilities._usable = usable
shed_capabilities = worker.shed_capabilities
shed_capabilities(leases if leases >= 0 else None)
sets = [line.split() for line in open("/proc/self/status") if line.startswith("Cap")]
print({name: int(bits, 16) for name, bits in sets if name != "CapBnd:"})
"""


@pytest.mark.parametrize("who", ["root", "service"])
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("fastpath", [False, True])
def test_nothing_is_kept_but_what_the_table_takes(
    kernel: Kernel, who: str, needs: bool, fastpath: bool
) -> None:
    leases = kernel.loaded.leases.fd if fastpath else -1
    command = [sys.executable, "-c", SCRIPT, str(leases), who, "needs" if needs else "free"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, pass_fds=[max(leases, 0)])
    left = 1 << CAP_NET_BIND_SERVICE | (1 << CAP_BPF if needs and fastpath else 0)
    wanted = {"CapInh:": 0, "CapPrm:": left, "CapEff:": left, "CapAmb:": 0}
    assert done.stdout.strip() == str(wanted)
