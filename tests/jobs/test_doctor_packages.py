"""Doctor's view of Python and packages: the bounds of the project itself, and what a vendor's runtime keeps."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.checks import bounds
from jobs.checks import packages as doctor_packages
from jobs.checks.findings import Finding
from jobs.settings import Settings

HEALTHY = Settings()
PROJECT: dict[str, Any] = tomllib.loads(bounds.PYPROJECT.read_text())["project"]
BOUNDS = {line.partition("=")[0].rstrip("<>~!"): line for line in PROJECT["dependencies"]}


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in bounds.RUNTIMES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give packages other versions; None takes one away."""
    real = importlib.metadata.version

    def have(versions: dict[str, str | None]) -> None:
        def fake(name: str) -> str:
            found = versions.get(name, "as it is")
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name) if found == "as it is" else found

        monkeypatch.setattr(importlib.metadata, "version", fake)

    return have


def test_this_python_and_these_packages_work() -> None:
    found = only(doctor_packages.python_version(HEALTHY))
    assert (found.level, found.what) == ("ok", f"{sys.version_info.major}.{sys.version_info.minor}")
    found = only(doctor_packages.package_versions(HEALTHY))
    assert (found.level, found.what) == ("ok", f"{len(PROJECT['dependencies'])} packages of versions that are tested")


@pytest.mark.parametrize(
    ("version", "level"), [((3, 10, 1), "fail"), ((3, 11, 0), "ok"), ((3, 13, 0), "ok"), ((3, 14, 2), "fail")]
)
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], level: str) -> None:
    monkeypatch.setattr(doctor_packages, "sys", SimpleNamespace(version_info=version))
    found = only(doctor_packages.python_version(HEALTHY))
    assert found.level == level
    assert level == "ok" or "<3.14,>=3.11 is what works" in found.what


@pytest.mark.parametrize(
    ("package", "version", "what"),
    [
        ("pyarrow", "14.0.1", "pyarrow is 14.0.1; <27,>=14.0.2 is tested"),
        ("pyarrow", "27.0.0", "pyarrow is 27.0.0; "),
        ("numpy", "3.0.0", "numpy is 3.0.0; "),
        ("petastorm", "0.13.1", "petastorm is 0.13.1; ==0.12.1 is tested"),
        ("torch", "2.16.0+cpu", "torch is 2.16.0+cpu; "),
        ("deltalake", None, "deltalake is not installed"),
    ],
)
def test_a_version_that_is_not_tested(
    installed: Callable[..., None], package: str, version: str | None, what: str
) -> None:
    installed({package: version})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert found.level == "fail"
    assert found.what.startswith(what)
    assert found.remedy.startswith("pip install '")
    assert package in found.remedy


def test_horovod_is_built_not_installed(installed: Callable[..., None]) -> None:
    installed({"horovod": None})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert found.what == "horovod is not installed"
    assert found.remedy.endswith(f"cluster/horovod/build.sh {sys.executable}")


def test_delta_says_which_spark_it_is_for(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.requires
    asked = ["pyspark>=3.5.3,<3.6", "importlib-metadata>=1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked if name == "delta-spark" else real(name))
    installed({"pyspark": "4.0.1", "delta-spark": "3.3.2"})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert "pyspark 4.0.1 with delta-spark 3.3.2, which asks for pyspark<3.6,>=3.5.3" in found.what
    assert "cluster/lines/" in found.remedy
    monkeypatch.setenv("DATAPROC_IMAGE_VERSION", "3.0")
    assert only(doctor_packages.package_versions(HEALTHY)).level == "ok"  # its vendor has matched the two
    monkeypatch.delenv("DATAPROC_IMAGE_VERSION")
    installed({"pyspark": "3.5.9", "delta-spark": "3.3.2"})
    assert only(doctor_packages.package_versions(HEALTHY)).level == "ok"


def test_spark_says_which_packages_it_takes(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them within the bounds, which hold for every Spark."""
    asked = [
        "py4j<0.10.9.10",
        "pyarrow>=18.0.0; extra == 'sql'",
        "numpy<2,>=1.15; extra == 'sql'",
        "pandas>9; extra == 'x'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", {"pyspark": asked}.get)
    installed({"pyspark": "4.2.0", "delta-spark": "4.4.0", "pyarrow": "15.0.2", "numpy": "1.26.4"})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert found.what == "pyarrow 15.0.2 with pyspark 4.2.0, which asks for pyarrow>=18.0.0"
    installed({"pyspark": "4.2.0", "delta-spark": "4.4.0", "pyarrow": "18.0.0", "numpy": "2.1.0"})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert found.what == "numpy 2.1.0 with pyspark 4.2.0, which asks for numpy<2,>=1.15"


def test_a_runtimes_own_packages_stay(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    installed({"torch": "2.3.1", "petastorm": None, "faiss-cpu": None, "horovod": None})
    found = {finding.what.split()[0]: finding.remedy for finding in doctor_packages.package_versions(HEALTHY)}
    assert "keep Databricks 17.3's own and take a release of it that fits" in found["torch"]
    assert found["petastorm"].startswith("pip install --no-deps 'petastorm==0.12.1' six")
    assert found["faiss-cpu"] == f"pip install '{BOUNDS['faiss-cpu'].replace('>=1.9,<2', '<2,>=1.9')}'"
    assert "cluster/horovod/build.sh" in found["horovod"]
    assert not any(remedy.startswith("pip install 'torch") for remedy in found.values())
    assert [line.partition("<")[0] for line in bounds.to_install()] == ["faiss-cpu"]
    assert "torch==2.3.1" in bounds.to_keep()


def test_what_a_runtime_has_none_of_is_installed(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It brings Spark, and a Python with less than one for machine learning has."""
    monkeypatch.setenv("EMR_CLUSTER_ID", "j-1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    installed({"pandas": None, "pyspark": None, "delta-spark": None})
    found = {finding.what.split()[0]: finding.remedy for finding in doctor_packages.package_versions(HEALTHY)}
    assert found["pandas"] == "pip install 'pandas<4,>=2.2'"
    assert found["pyspark"].startswith("keep EMR j-1's own")
    assert bounds.to_install() == ["pandas<4,>=2.2"]


def test_a_runtime_need_not_tell_its_versions(installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark and Delta without a package's metadata, or with a version in the vendor's own writing."""
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    installed({"pyspark": None, "delta-spark": None, "pandas": "2.2.3-vendor-build"})
    found = only(doctor_packages.package_versions(HEALTHY))
    assert (found.level, found.what.partition("; ")[2]) == ("ok", "what Databricks 17.3 brings stays as it is")
    assert not {"pyspark", "delta-spark", "pandas"} & {line.partition("==")[0] for line in bounds.to_keep()}


def test_the_installed_package_knows_the_same_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the checkout: what its wheel's metadata says, extras left out."""
    ours = bounds.requirements()
    elsewhere = tmp_path / "pyproject.toml"
    elsewhere.write_text("[project]\nname = 'another'\n")
    monkeypatch.setattr(bounds, "PYPROJECT", elsewhere)
    extra = "pytest>=8; extra == 'dev'"
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [*PROJECT["dependencies"], extra])
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: {"Requires-Python": PROJECT["requires-python"]})
    assert bounds.requirements() == ours


def test_without_bounds_nothing_is_held_against_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PYPROJECT", tmp_path / "none.toml")
    monkeypatch.setattr(bounds, "DISTRIBUTION", "not-there-at-all")
    assert only(doctor_packages.python_version(HEALTHY)).level == "ok"
    found = only(doctor_packages.package_versions(HEALTHY))
    assert (found.level, "not-there-at-all" in found.what) == ("warn", True)
