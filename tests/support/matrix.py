"""Table of test results by architecture: `pytest -p tests.support.matrix tests/model/test_streams.py`."""

import re

from tests.support.families import FAMILIES

_seen = {}


def pytest_runtest_logreport(report):
    match = re.search(r"::test_(\w+)\[(\w+)\]", report.nodeid)
    if match and match[2] in FAMILIES and (report.when == "call" or report.skipped):
        _seen[match[1], match[2]] = {"passed": "yes", "skipped": "-"}.get(report.outcome, "NO")


def pytest_terminal_summary(terminalreporter):
    rows = [["", *FAMILIES], ["---"] * (len(FAMILIES) + 1)]
    tests = dict.fromkeys(test for test, _ in _seen)
    rows += [[test.replace("_", " "), *(_seen.get((test, family), "") for family in FAMILIES)] for test in tests]
    for row in rows:
        terminalreporter.write_line("| " + " | ".join(row) + " |")
