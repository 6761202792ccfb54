"""Who may import whom, and by which door each heavy dependency comes in."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jobs", "spark_udfs", "training", "tuning", "cluster")
MAY_IMPORT = {
    "jobs": set(PACKAGES),
    "tuning": {"tuning", "training"},
    "spark_udfs": {"spark_udfs", "training"},
    "training": {"training"},
    "cluster": {"cluster"},
}
FRONT_DOORS = {
    "petastorm": ("training/data/pool.py",),
    "deltalake": ("training/data/delta_log.py",),
    "pyroaring": ("training/data/deletion_vectors.py", "training/data/parquet.py"),
    "xxhash": ("training/data/cache.py",),
    "tokenizers": ("training/state/text_tokens.py", "training/state/text_pieces.py"),
    "gguf": ("training/state/gguf_files.py",),
    "horovod": (
        "training/world.py",
        "training/step/sync.py",
        "cluster/launch.py",
        "cluster/rendezvous.py",
        "cluster/horovod/",
    ),
    "packaging": ("jobs/checks/bounds.py", "jobs/checks/packages.py"),
    "optuna": ("tuning/",),
    "delta": ("cluster/session.py",),
    "py4j": ("jobs/sessions.py",),
    "torch": (
        "training/",
        "jobs/tasks/",
        "jobs/learning.py",
        "jobs/validation.py",
        "jobs/held_out.py",
        "jobs/held_out_classes.py",
        "spark_udfs/answers.py",
        "spark_udfs/scoring.py",
        "spark_udfs/evaluation.py",
    ),
    "faiss": ("spark_udfs/top_k.py",),
    "pyspark": ("jobs/", "spark_udfs/", "cluster/"),
    "plotly": ("jobs/report.py", "jobs/page/"),
    "statsforecast": ("spark_udfs/baselines/exponential_smoothing.py",),
    "PIL": ("spark_udfs/pictures.py",),
    "lightgbm": ("spark_udfs/baselines/trees.py",),
    "mlflow": ("training/watch/observers.py",),
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


# The floors of training/: who may import whom. What lies beside fit.py is the ground, and knows no floor; but for what
# only fit itself and its callers ask for.
FLOORS = {
    "data": {"data"},
    "tables": {"tables"},
    "step": {"step", "tables"},
    "models": {"models", "tables"},
    "metrics": {"metrics", "data", "models"},
    "state": {"state", "step", "tables", "models"},
    "watch": {"watch", "state"},
}
ROOF = {"fit", "loop", "checks"}


def _module(package: str, name: str) -> str:
    """What `from package import name` imports: a module of ours, or the package, in which the name stands."""
    inside = ROOT.joinpath(*package.split("."), name)
    return f"{package}.{name}" if inside.with_suffix(".py").exists() or inside.is_dir() else package


@functools.cache
def imports(path: Path, *, top_level_only: bool = False) -> tuple[tuple[str, str, int], ...]:
    """(first part of the name, whole name, line) of each import in a file, but for those of type checkers alone."""
    return tuple(_imports(path, top_level_only))


def _imports(path: Path, top_level_only: bool) -> Iterator[tuple[str, str, int]]:
    tree = ast.parse(path.read_text())
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    nodes = [node for node in (tree.body if top_level_only else ast.walk(tree)) if node not in for_types]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for whole in dict.fromkeys(_module(node.module, alias.name) for alias in node.names):
                yield whole.split(".")[0], whole, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_the_allowed_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = [
        f"line {line}: {whole}"
        for first, whole, line in imports(path)
        if first in PACKAGES and first not in MAY_IMPORT[room]
    ]
    assert not wrong, f"{room} may import only {sorted(MAY_IMPORT[room])}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_floors_of_training(path: Path) -> None:
    *_, floor, file = ("", *path.relative_to(ROOT / "training").with_suffix("").parts)
    may = set(FLOORS) | ROOF if file in ROOF and not floor else FLOORS.get(floor, set())
    parts = [(line, whole.split(".")[1]) for first, whole, line in imports(path) if first == "training"]
    wrong = [f"line {line}: {part}" for line, part in parts if part in {*FLOORS, *ROOF} and part not in may]
    assert not wrong, f"{floor or 'the ground'} may import only {sorted(may)}"


def test_imports_run_in_no_circle() -> None:
    """Wherever in a file they stand: a circle that a late import hides is one all the same."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    asked = {
        name: {whole for _, whole, _ in imports(path) if whole in modules and whole != name}
        for name, path in modules.items()
    }
    while free := [name for name, others in asked.items() if not others & asked.keys()]:
        for name in free:
            del asked[name]
    assert not asked, "each of these stands in a circle, or asks for one that does"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_dependencies_enter_by_their_door(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    wrong = [
        f"line {line}: {whole} belongs in {FRONT_DOORS[first]}"
        for first, whole, line in imports(path)
        if first in FRONT_DOORS and not name.startswith(FRONT_DOORS[first])
    ]
    assert not wrong


@pytest.mark.parametrize("path", sorted((ROOT / "spark_udfs").rglob("*.py")), ids=lambda path: path.stem)
def test_udfs_import_torch_only_on_the_executor(path: Path) -> None:
    assert "torch" not in {first for first, _, _ in imports(path, top_level_only=True)}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("training.fit", "pyspark"),
        ("training.schema", "torch"),
        ("jobs.task", "pyspark"),
        *(
            (module, absent)
            for module in ("jobs.tasks", "jobs.settings", "jobs.main")
            for absent in ("torch", "pyspark")
        ),
        ("jobs.ingest", "torch"),
        ("jobs.recommender", "pyspark"),
        ("jobs.chat", "pyspark"),
        ("jobs.tasks.service_chat", "pyspark"),
    ],
)
def test_import_stays_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit('{absent}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, (
        f"{module} loads {absent}"
    )


def test_settings_are_checked_without_torch() -> None:
    code = (
        "import sys; from jobs.settings import Settings; Settings(model={'dim': 8}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_task_is_named_outside_its_room() -> None:
    tasks = [
        path.stem
        for path in (ROOT / "jobs" / "tasks").glob("*.py")
        if path.stem != "__init__" and not path.stem.endswith("_on_spark")
    ]
    assert tasks
    elsewhere = [path for path in FILES if "tasks" not in path.parts]
    named = {
        f"{path.relative_to(ROOT)} names jobs.tasks.{task}"
        for path in elsewhere
        for task in tasks
        for _, whole, _ in imports(path)
        if whole == f"jobs.tasks.{task}"
    }
    assert not named


def test_nothing_is_unpickled_from_disk() -> None:
    for path in FILES:
        names = {first for first, _, _ in imports(path)}
        assert not names & {"pickle", "dill", "joblib", "shelve"}, path


def test_wheel_leaves_tests_out() -> None:
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = sorted(
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for p in PACKAGES
        for path in (ROOT / p).rglob("__init__.py")
    )
    assert sorted(packages) == found
