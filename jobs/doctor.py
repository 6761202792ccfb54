"""Doctor: what would fail after ten minutes of cluster time fails now, with what to change.

    python -m jobs.doctor --settings shop.yaml

Looks at Python, Java, packages, Horovod, Spark with Delta, tables, settings, memory, disk and slots. Exits with 2 if
anything would fail. Changes nothing but doctor.json in the run folder.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cluster.errors import EnvironmentProblem
from jobs.artefacts import DOCTOR, write_json
from jobs.checks import packages
from jobs.checks.findings import Check, Finding
from jobs.command import main_of
from jobs.console import show_table
from jobs.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST: tuple[Check, ...] = (packages.python_version, packages.package_versions)


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Run all checks and show a line for each finding.

    Returns:
        counts by level (ok, warn, fail), and findings.

    Raises:
        EnvironmentProblem: something would fail; the message lists it with its remedies.
    """
    findings = list(examine(settings, spark))
    show_table("doctor", ("", "check", "found", "remedy"), [(f.level, f.check, f.what, f.remedy) for f in findings])
    counts = dict.fromkeys(("ok", "warn", "fail"), 0) | Counter(finding.level for finding in findings)
    summary = {"counts": counts, "findings": [asdict(finding) for finding in findings]}
    failed = [finding for finding in findings if finding.level == "fail"]
    if any(finding.check == "disk" for finding in failed):
        raise _problem(failed)  # there is no place for doctor.json
    write_json(settings.run_dir, DOCTOR, summary)
    if failed:
        raise _problem(failed)
    return summary


def examine(settings: Settings, spark: SparkSession | None = None) -> Iterator[Finding]:
    """All findings, in the order of the checks; where a package cannot be imported, only those that do without."""
    for check in FIRST:
        yield from check(settings)
    try:
        rest = importlib.import_module("jobs.checks.rest")
    except ImportError as error:
        remedy = "see to the packages, and run doctor again: all other checks were left out"
        yield Finding("fail", "imports", f"{type(error).__name__}: {error}", remedy)
        return
    yield from rest.examine(settings, spark)


def _problem(failed: list[Finding]) -> EnvironmentProblem:
    lines = "\n".join(f"  - {finding.check}: {finding.what}. {finding.remedy}" for finding in failed)
    return EnvironmentProblem(f"{len(failed)} thing(s) would fail:\n{lines}")


if __name__ == "__main__":
    main_of(run)
