"""What the end of a test run says beside pytest's own lines."""

from typing import Any

_NULL_GPU = "tests/null_gpu/"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many tests ran on the null GPU: on a machine without a compiler or a CUDA build of torch none does."""
    counts = {
        outcome: sum(_NULL_GPU in report.nodeid for report in terminalreporter.stats.get(outcome, ()))
        for outcome in ("passed", "failed", "error", "skipped")
    }
    if any(counts.values()):
        ran = sum(counts.values()) - counts["skipped"]
        skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        terminalreporter.write_line(f"null GPU: {ran} tests ran on the CUDA path without a GPU{skipped}")
