"""Rules for every test: in CI a skipped test is a failure, unless the machine is the reason; what CI generates."""

import os
import signal
from collections.abc import Generator

import hypothesis
import pytest

from tests.harness import rest

# A shell that starts us in the background has us ignore SIGINT, and whatever we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# A change is judged by the same generated examples each time, so that CI fails for what the change did; everybody
# else searches anew with every run and prints a blob that repeats a failure (`--hypothesis-seed=N` repeats a whole
# run, `--hypothesis-profile=search` searches in CI). No example has a deadline: the machine may be slow.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("search", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if IN_CI else "search")

MACHINE = "machine:"
"""A skip whose reason begins with this says that the machine lacks something, not that the test is off."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip without a reason of the machine into a failure, in CI only."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not _allowed(_reason(report)):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI without a reason of the machine: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if report.skipped and not _allowed(_reason(report)):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI without a reason of the machine: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A test that passed has left nothing over."""
    rest.BEGUN.clear()
    yield
    rest.wind_up()


def _allowed(reason: str) -> bool:
    return reason.startswith(MACHINE) or not IN_CI


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what this machine could not run, once for every reason."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reasons[_reason(report)] = reasons.get(_reason(report), 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}", yellow=True)
