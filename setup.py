"""What pyproject.toml cannot say: modules that are compiled, and the kernel program (ARCHITECTURE.md, Building).

SBC_COMPILE=1 turns the modules of every message into native code with mypyc; their source stays the Python that it is.
Without it, and in a checkout that is being worked on, they are interpreted: a compiled module would hide its source.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGES = ["sbc", "signaling", "media", "nat", "config"]
HOT = {
    "signaling/transaction": "tables tx effects via clockwork client server layer",
    "signaling": "uri headers message parser errors flow phrases multipart dialog "
    "session_timer exchange usage informs renegotiation leg caller callee hunt call_effects reason b2bua events "
    "topology identity site guard return_path digest passed_digest stateless resolver location sdp/session sdp/parser "
    "sdp/offer_answer sdp/formats sdp/rewrite",
    "signaling/transport": "udp wires limits arrival refusals",
    "sbc": "calls stateless reception switchboard watch answers wakeups sites routing trunks admission buckets record "
    "decisions anchor streams call_media exchange media_policy media_ports binding locations register_request "
    "registrar registrar_local registrar_relay registrar_short register_shape registration_effects "
    "registration_policy registrations phones keepalive users gruu "
    "pump journal tokens accounts outbound media_loops turn turn_pool",
    "media": "relay session ports worker_state workers generations",
}
"""What every message or call goes through, by package."""
RELAYED = {"media": "reference forwarder sockets stream rtp rtcp source demux srtp"}
"""What every packet goes through: a library of its own, since the relay workers load nothing else that is compiled."""
COMPILED = [
    [f"{package}/{name}.py" for package, names in library.items() for name in names.split()]
    for library in (HOT, RELAYED)
]


class BuildPackages(build_py):
    """Puts the kernel program into the installation where clang is there to compile it."""

    def run(self) -> None:
        sys.path.insert(0, str(ROOT))
        from media.fastpath.build import build  # noqa: PLC0415  (only importable from here)

        why_not = build()
        if why_not is not None:
            print(f"installed without the kernel fast path: {why_not}", file=sys.stderr)
        super().run()


def native_modules() -> list[Extension]:
    """The compiled libraries. mypyc sees a copy of the tree with its data classes expanded (config/expand.py)."""
    sys.path.insert(0, str(ROOT))
    from mypyc.build import mypycify  # noqa: PLC0415  (only there when something is compiled)

    from config.expand import expand_tree  # noqa: PLC0415

    expanded = ROOT / "build" / "expanded"
    expand_tree(PACKAGES, expanded)
    modules: list[Extension] = []
    os.chdir(expanded)  # so that tracebacks name the files as they are named here
    for library in COMPILED:
        options = ["--follow-imports=silent", f"--config-file={ROOT / 'pyproject.toml'}", *library]
        modules += mypycify(options, opt_level="2", debug_level="0", target_dir=str(ROOT / "build"))
    os.chdir(ROOT)
    for module in modules:
        module.sources = [os.path.relpath(source, ROOT) for source in module.sources]
    return modules


if __name__ == "__main__":
    compiling = os.environ.get("SBC_COMPILE") == "1"
    setup(ext_modules=native_modules() if compiling else [], cmdclass={"build_py": BuildPackages})
