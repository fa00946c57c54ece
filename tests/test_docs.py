"""The documents are current: what is generated in them is what the code says.

`python -m tests.test_docs` writes it again.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sbc.cdr
from config.reference import markdown
from sbc.media_verdict import MEDIA_RULES
from sbc.verdict import ENDINGS
from signaling.topology import describe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_SERVED = {"sbc/simulate.py", "sbc/demo.py", "sbc/phone.py"}
"""Errors of the command line, which no peer sees."""


def configuration() -> str:
    return markdown() + "\nWritten by `python -m tests.test_docs` from the models in `config/model.py`.\n"


def headers() -> str:
    return f"""# What crosses the border

A message is never copied: each leg builds its own, and only what stands here gets from one to the other. A header
field that is not in the table is dropped.

{describe()}
Written by `python -m tests.test_docs` from `HEADERS` in `signaling/topology.py`.
"""


def operations() -> str:
    parts = {"cdr": cdr(), "media": media(), "endings": endings(), "rules": rules()}
    text = (DOCS / "operations.md").read_text()
    return PART.sub(lambda found: f"{found[1]}{parts[found[2]]}{found[3]}", text)


def cdr() -> str:
    """The table of the schema, as its module documents it."""
    lines = [line for line in (sbc.cdr.__doc__ or "").splitlines() if line.startswith("|")]
    joined: list[str] = []
    for line in lines:
        # In the source a long row goes on in a row without a key.
        if line.startswith("|  |"):
            joined[-1] = joined[-1].removesuffix(" |") + line.removeprefix("|  |")
        else:
            joined.append(line)
    return "\n".join(joined) + "\n"


def media() -> str:
    words = {"it": "A", "other": "B"}
    rows = (
        f"| `{rule.name}` | {'yes' if rule.healthy else 'no'} | {_said(rule.says, words)} |"
        for rule in MEDIA_RULES
    )
    return "\n".join(["| id | healthy | says (of A) |", "| --- | --- | --- |", *rows]) + "\n"


def endings() -> str:
    rows = (f"| `{cause}` | {_said(says, {'who': 'A or B'})} |" for cause, says in sorted(ENDINGS.items()))
    return "\n".join(["| cause | says |", "| --- | --- |", *rows]) + "\n"


def _said(template: str, words: dict[str, str]) -> str:
    filled = re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], f"*{found[1]}*"), template)
    return filled[0].upper() + filled[1:].replace("|", "\\|")


def rules() -> str:
    """Every rule that the code can answer a peer with, found in its source."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for rule, status, reason in sorted(set(raised())):
        statuses, reasons = found.setdefault(rule, ({}, {}))
        statuses[status] = None
        if reason:
            reasons[reason] = None
    rows = (
        f"| `{rule}` | {', '.join(statuses)} | {'; '.join(reasons)} |"
        for rule, (statuses, reasons) in found.items()
    )
    return "\n".join(["| id | status | text |", "| --- | --- | --- |", *rows]) + "\n"


def raised() -> Iterator[tuple[str, str, str]]:
    """(rule, status, reason) of every refusal in the source that names its rule."""
    for folder in ("sbc", "signaling"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.relative_to(ROOT).as_posix() in NOT_SERVED:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield from _refusal(node.func.id, [_text(one) for one in node.args])


def _refusal(name: str, arguments: list[str | None]) -> Iterator[tuple[str, str, str]]:
    match name, arguments:
        case (("PeerError" | "Refusal" | "Rejected"), [str(status), reason, str(rule), *_]) if (
            status.isdigit()
        ):
            yield rule, status, reason or ""
        case "ParseError", [reason, str(rule), str(status), *_]:
            yield rule, status, reason or ""
        case "ParseError", [reason, str(rule)]:
            yield rule, "400", reason or ""
        case "ResolveError", [reason, str(rule)]:
            yield rule, "503", reason or ""
        case "Refusal", [reason, str(rule)]:
            # Of signaling.sdp: an m= line that is not served (RFC 3264 s.6).
            yield rule, "488", reason or ""


def _text(node: ast.expr) -> str | None:
    """A constant as text, an f-string with dots for what is filled in, None for what is not written there."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
            )
    return None


PAGES = {"configuration.md": configuration, "headers.md": headers, "operations.md": operations}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "python -m tests.test_docs writes it again"


def test_the_rules_that_everybody_meets_are_found() -> None:
    known = {rule for rule, _, _ in raised()}
    assert {
        "no-route",
        "max-calls",
        "servers-down",
        "bad-request-line",
        "no-such-dialog",
        "no-common-codec",
    } <= known
    assert len(known) > 60


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
