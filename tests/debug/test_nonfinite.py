"""find_nonfinite on planted faults and on healthy programs."""

import pytest

from functrace.debug import find_nonfinite
from tests.debug.planted import FAULTS, HEALTHY

names = lambda rows: [row.name for row in rows]


@pytest.mark.parametrize("row", FAULTS, ids=names(FAULTS))
def test_names_the_planted_line(row):
    report = find_nonfinite(row.run, **row.options)(*row.args)
    assert report.found
    expected = dict(row.expected)
    trap = expected.pop("trap", False)
    assert report.cause.startswith(expected.pop("cause", ""))
    found = {name: getattr(report, name) for name in expected}
    assert (report.file, report.line, found) == (inspect_file(row), row.line, expected), str(report)
    assert ("where" in report.cause) == trap
    assert report.cause and report.fix and report.text.split("#")[0].strip() in str(report)


def inspect_file(row):
    return row.function.__code__.co_filename


@pytest.mark.parametrize("row", HEALTHY, ids=names(HEALTHY))
def test_no_alarm(row):
    report = find_nonfinite(row.run, **row.options)(*row.args)
    assert not report.found, str(report)
    assert not report


def test_thirty_of_each():
    assert len(FAULTS) >= 30 and len(HEALTHY) >= 30
