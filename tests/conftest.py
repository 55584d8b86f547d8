"""Options of the test run: CI names the number of skips that it expects, so that a missing runtime cannot hide."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expect-skips", type=int, default=None, help="fail unless exactly this many tests are skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    expected = session.config.getoption("--expect-skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if expected is None or reporter is None or exitstatus != pytest.ExitCode.OK:
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped != expected:
        reporter.write_line(f"{skipped} tests were skipped, {expected} expected", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
