"""The checks of `millrace doctor` that hold Python and the packages against the versions that are tested.

Which Spark a Delta is for is what delta-spark itself says; which pyarrow, pandas and numpy a Spark takes, pyspark.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Collection

from packaging.requirements import Requirement

from jobs.checks import bounds
from jobs.checks.findings import Finding
from jobs.settings import Settings


def python_version(settings: Settings) -> list[Finding]:  # noqa: ARG001
    text = ".".join(map(str, sys.version_info[:2]))
    tested = bounds.requirements()
    if tested is not None and text not in tested[0]:
        remedy = "make install takes the newest that fits of those it finds, or PYTHON=/path/to/python"
        return [Finding("fail", "python", f"{text}; {tested[0]} is what works", remedy)]
    return [Finding("ok", "python", text)]


def package_versions(settings: Settings) -> list[Finding]:  # noqa: ARG001
    """What is missing or not of a version that is tested, and whether Delta, Spark and what Spark takes go together."""
    tested = bounds.requirements()
    if tested is None:
        what = f"the versions that work together are not known: {bounds.DISTRIBUTION} is not installed"
        return [Finding("warn", "packages", what, "pip install --no-deps its wheel, or run it in a checkout")]
    wanted = tested[1]
    outside = {one.name: _unfit(one) for one in wanted if not bounds.fits(one)}
    findings = [*outside.values(), *_of_one_another(but=outside)]
    if findings:
        return findings
    what = f"{len(wanted)} packages of versions that are tested"
    kept = f"; what {here} brings stays as it is" if (here := bounds.runtime()) else ""
    return [Finding("ok", "packages", what + kept)]


def _unfit(wanted: Requirement) -> Finding:
    found = bounds.installed(wanted.name)
    what = "is not installed" if found is None else f"is {found}; {wanted.specifier} is tested"
    return Finding("fail", "packages", f"{wanted.name} {what}", _how_to_get(wanted))


def _how_to_get(wanted: Requirement) -> str:
    here = bounds.runtime()
    if wanted.name == "horovod":
        return f"it is compiled against the installed torch, so build it: cluster/horovod/build.sh {sys.executable}"
    if here is None:
        return f"pip install '{wanted}', or make install"
    if bounds.is_kept(wanted.name):
        return f"keep {here}'s own and take a release of it that fits (docs/platforms.md)"
    if wanted.name in bounds.WITHOUT_THEIRS:
        return f"pip install --no-deps '{wanted}' six: what it asks for would replace {here}'s own"
    return f"pip install '{wanted}'"


def _of_one_another(but: Collection[str]) -> list[Finding]:
    """What delta-spark asks of pyspark, and pyspark of those that run our functions; a vendor has matched its own.

    Args:
        but: packages that something is said about already.
    """
    if bounds.runtime() is not None:
        return []
    findings = []
    for name, extra in (("delta-spark", ""), ("pyspark", "sql")):
        lines = (importlib.metadata.requires(name) or []) if bounds.installed(name) else []
        asked = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({"extra": extra})]
        for one in asked:
            found = bounds.installed(one.name) if one.name in bounds.ITS_OWN.difference(but) else None
            if found and not one.specifier.contains(found, prereleases=True):
                what = (
                    f"{one.name} {found} with {name} {bounds.installed(name)}, which asks for {one.name}{one.specifier}"
                )
                findings.append(Finding("fail", "packages", what, "take versions of one line: those in cluster/lines/"))
    return findings
