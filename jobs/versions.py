"""Which versions are installed, by what the packages say of themselves; nothing is imported for it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

BESIDE = ("pyspark", "delta-spark", "torch")  # what a line of versions is known by


def installed(name: str) -> str:
    """A package's version, or that there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"


def line() -> str:
    """Millrace's version and those of its line."""
    return f"millrace {installed('millrace')} ({', '.join(f'{name} {installed(name)}' for name in BESIDE)})"
