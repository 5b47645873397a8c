"""How the tests of sessions ended is read from pytest's report."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

REPORT = """<testsuites><testsuite>
<testcase classname="tests.vllm.test_more_sessions" name="test_a[x]" time="1.5"/>
<testcase classname="tests.vllm.test_more_sessions" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.vllm.test_sessions" name="test_c"><error message="no"/></testcase>
<testcase classname="tests.vllm.test_sessions" name="test_d"><skipped message="no"/></testcase>
<testcase classname="tests.vllm.test_sessions" name="test_e"><system-out>so</system-out></testcase>
</testsuite></testsuites>"""


def test_what_did_not_run_or_failed_has_not_passed(tmp_path: Path) -> None:
    matrix = import_module("session_matrix")
    (tmp_path / "report.xml").write_text(REPORT)
    rows = matrix.rows_of(tmp_path / "report.xml")
    assert [(row["case"], row["passed"]) for row in rows] == [
        ("test_more_sessions: test_a[x]", True),
        ("test_more_sessions: test_b", False),
        ("test_sessions: test_c", False),
        ("test_sessions: test_d", False),
        ("test_sessions: test_e", True),
    ]
    (figure,) = matrix.figures(rows)
    assert (figure.found, figure.unit, figure.reached) == (3, "of 5", False)


def test_the_files_are_there() -> None:
    matrix = import_module("session_matrix")
    assert all((matrix.TESTS / f"{name}.py").exists() for name in matrix.FILES)
