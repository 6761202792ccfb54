"""The versions that are tested, and how an environment stands to them. Needs nothing but `packaging`.

The bounds are those of pyproject.toml (in a checkout) or of the installed millrace; there is no other list.
cluster/install_on_runtime.sh asks here what to install, before any other package is there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

DISTRIBUTION = "millrace"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
# Where a vendor's runtime is told by: the name of a variable that it sets for its processes.
RUNTIMES = {
    "DATABRICKS_RUNTIME_VERSION": "Databricks",
    "DATAPROC_IMAGE_VERSION": "Dataproc",
    "EMR_CLUSTER_ID": "EMR",
    "AZURE_SERVICE": "Fabric or Synapse",
}
# What a runtime is built around. Another version under it breaks what the vendor compiled and tested against it.
ITS_OWN = frozenset({"pyspark", "delta-spark", "torch", "pyarrow", "numpy", "pandas"})
WITHOUT_THEIRS = frozenset({"petastorm", "horovod"})  # installed with --no-deps: what they ask for is there, or unused
MODULES = {"pyspark": "pyspark", "delta-spark": "delta"}  # runtimes carry them without a package's metadata


def runtime() -> str | None:
    """The vendor's runtime that this is, None on a machine of one's own."""
    return next((f"{name} {os.environ[key]}" for key, name in RUNTIMES.items() if key in os.environ), None)


def requirements() -> tuple[SpecifierSet, list[Requirement]] | None:
    """Bounds of Python and of the packages, from the checkout or the installed package; None where there is neither.

    A checkout comes first: what is installed from it may be of an earlier day.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")).get("project", {}) if PYPROJECT.is_file() else {}
    try:
        if project.get("name") == DISTRIBUTION:
            python, lines = project["requires-python"], project["dependencies"]
        else:
            python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
            lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    wanted = [Requirement(line) for line in lines]
    return SpecifierSet(python), [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


def installed(name: str) -> str | None:
    """The version; '' for one that is there and does not tell a version that counts; None for one that is not there."""
    try:
        return str(Version(importlib.metadata.version(name)))
    except InvalidVersion:
        return ""
    except importlib.metadata.PackageNotFoundError:
        module = MODULES.get(name)
        return None if module is None or importlib.util.find_spec(module) is None else ""


def fits(wanted: Requirement) -> bool:
    """Whether it is there, and of a version within the bounds or one that it does not tell."""
    found = installed(wanted.name)
    return found == "" or (found is not None and wanted.specifier.contains(found, prereleases=True))


def is_kept(name: str) -> bool:
    """Whether a runtime has this package of its own, which stays. Spark and Delta it has, wherever they are found."""
    return name in ITS_OWN and (name in MODULES or installed(name) is not None)


def to_install() -> list[str]:
    """What pip should bring beside a runtime's own: what is missing or of a version outside the bounds."""
    wanted = (requirements() or (None, []))[1]
    return [str(one) for one in wanted if not (is_kept(one.name) or one.name in WITHOUT_THEIRS or fits(one))]


def to_keep() -> list[str]:
    """The runtime's own packages with their versions, as constraints for pip."""
    return [f"{name}=={found}" for name in sorted(ITS_OWN) if (found := installed(name))]
