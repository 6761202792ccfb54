"""`make install`: interrupted, twice at once, in a folder with spaces, after its Python has gone; and what is torn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A Python that runs, and says all that is done with it. Its environments have a Python like it, and their uv says when
# two are at work.
PYTHON = """#!/bin/sh
echo "$*" >>"$SAID/python"
case "$*" in
    "$FAILS_AT"*) exit 1 ;;
    "-m venv "*)
        for folder; do :; done
        rm -rf "$folder"/* && mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
    "-m pip install"*uv)
        cp "$SAID/uv.sh" "$(dirname "$0")/uv" ;;
    -c*runs*) echo runs ;;
esac
"""
UV = """#!/bin/sh
mkdir "$SAID/busy" || echo "two at once" >>"$SAID/uv"
echo "$* into $VIRTUAL_ENV" >>"$SAID/uv"
sleep 0.3
rmdir "$SAID/busy"
"""
DISK = "#!/bin/sh\necho 'Filesystem MB Used Available\ndisk 99999 0 99999'\n"  # the disk of the tests may be fuller
STEPS = ("-m venv", "cluster/lines/torn_packages.py", "-m ensurepip", "-m pip install", "cluster/horovod/check.py")
NEXT = "installed. To run: . .venv/bin/activate and then millrace; or .venv/bin/millrace\n"
OF_MAKE = ("GPU", "PYTHON", "LINE", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the `make test` that runs these tests


class Checkout:
    """A copy of what `make install` needs, with a Python and a Java of its own, and Horovod's build as one line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder / "a checkout", folder / "said"
        self.said.mkdir()
        shutil.copytree(ROOT / "cluster", self.folder / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.command(self.said / "uv.sh", UV)
        self.python = self.command(folder / "my python", PYTHON)
        self.command(folder / "bin" / "java", "#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
        self.command(folder / "bin" / "df", DISK)
        self.command(self.folder / "cluster" / "horovod" / "build.sh", '#!/bin/sh\necho "GPU=$GPU" >>"$SAID/builds"\n')
        own = {"SAID": str(self.said), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CXX": "true"}
        given = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
        self.variables = given | own | {"FAILS_AT": "nowhere"}

    @staticmethod
    def command(path: Path, text: str) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["make", f"PYTHON={self.python}", *arguments],
            cwd=self.folder,
            env=self.variables | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def make(self, *arguments: str, **variables: str) -> tuple[int, str]:
        making = self.start(*arguments, **variables)
        said = making.communicate()[0]
        return making.returncode, said

    def install(self, *arguments: str, **variables: str) -> tuple[int, str]:
        return self.make("install", *arguments, **variables)

    def lines(self, name: str) -> list[str]:
        file = self.said / name
        return file.read_text().splitlines() if file.exists() else []

    def steps(self) -> list[str]:
        """What was done with Python, in order, since the last call."""
        done = [step for line in self.lines("python") for step in STEPS if line.startswith(step)]
        (self.said / "python").unlink(missing_ok=True)
        return done


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_installs_once_in_a_folder_with_spaces(checkout: Checkout) -> None:
    code, said = checkout.install()
    assert (code, checkout.steps()) == (0, list(STEPS)), said
    packages, ours = checkout.lines("uv")
    assert packages.startswith("pip install --quiet --compile-bytecode -r .venv/requirements.lock into ")
    assert ours == f"pip install --quiet --no-deps -e . into {checkout.folder}/.venv"
    assert said.endswith(NEXT)
    assert checkout.install() == (0, NEXT)
    assert checkout.steps() == []


def test_two_at_once_install_once(checkout: Checkout) -> None:
    both = [checkout.start("install"), checkout.start("install")]
    said = [making.communicate()[0] for making in both]
    assert [making.returncode for making in both] == [0, 0], said
    assert len(checkout.lines("uv")) == 2  # the packages and ours, one after the other
    assert sorted(text.startswith("another installation is running here") for text in said) in (
        [False, True],
        [False, False],  # the first was done before the second looked
    )


@pytest.mark.parametrize("step", STEPS[1:])
def test_what_failed_half_way_is_not_ready(checkout: Checkout, step: str) -> None:
    assert checkout.install(FAILS_AT=step)[0] != 0
    checkout.steps()
    assert checkout.install()[0] == 0
    assert checkout.steps() == list(STEPS[1:])


def test_an_environment_whose_python_has_gone_is_made_again(checkout: Checkout) -> None:
    assert checkout.install()[0] == 0
    python = checkout.folder / ".venv" / "bin" / "python"
    for gone in ("#!/nowhere/python3\n", "#!/bin/sh\nexit 127\n"):
        checkout.command(python, gone)
        checkout.steps()
        code, said = checkout.install()
        assert (code, checkout.steps()) == (0, list(STEPS)), said
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert checkout.install()[0] == 0
    assert checkout.steps() == list(STEPS)


def test_an_environment_keeps_its_horovod_until_asked_for_the_other(checkout: Checkout) -> None:
    for arguments in (["GPU=1"], [], ["GPU=0"], [], ["GPU=1"]):
        assert checkout.install(*arguments)[0] == 0
    assert checkout.lines("builds") == ["GPU=1", "GPU=0", "GPU=1"]


def test_a_changed_lock_is_installed_with_the_same_horovod(checkout: Checkout) -> None:
    assert checkout.install("GPU=1")[0] == 0
    lock = checkout.folder / "cluster" / "lines" / "newest.lock"
    lock.write_text(lock.read_text() + "another==1.0\n")
    assert checkout.install()[0] == 0
    assert checkout.lines("builds") == ["GPU=1", "GPU=1"]
    assert "another==1.0" in (checkout.folder / ".venv" / "requirements.lock").read_text()


def test_a_lock_that_was_removed_is_made_anew(checkout: Checkout) -> None:
    assert checkout.install()[0] == 0
    lock = checkout.folder / "cluster" / "lines" / "newest.lock"
    lock.unlink()
    assert checkout.make("lock")[0] == 0
    compiled = [line.split(" into ")[0].split()[-1] for line in checkout.lines("uv") if line.startswith("pip compile")]
    assert compiled == [f"cluster/lines/{line}.lock" for line in ("newest", "current", "legacy")]


def package(site: Path, name: str) -> Path:
    """An installed package of two files; returns its metadata."""
    (site / name).mkdir()
    (site / name / "__init__.py").write_text("x = 1\n")
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {name}\n")
    rows = (f"{name}/__init__.py,sha256=a,6", f"{name}/__pycache__/a.pyc,sha256=a,6", f"{metadata.name}/METADATA,,")
    (metadata / "RECORD").write_text("\n".join([*rows, f"{metadata.name}/RECORD,,", ""]))
    return metadata


def test_packages_that_are_not_whole_are_forgotten(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False, symlinks=True)
    site = tmp_path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    names = ("whole", "cut", "gone", "unrecorded", "nameless", "endless", "garbled")
    found = {name: package(site, name) for name in names}
    (site / "cut" / "__init__.py").write_text("x")
    (site / "gone" / "__init__.py").unlink()
    (found["unrecorded"] / "RECORD").unlink()
    (found["nameless"] / "RECORD").write_text("")
    (found["endless"] / "RECORD").write_text("endless/__init__.py,sha256=a,6\n")
    (found["garbled"] / "RECORD").write_text("garbled/__init__.py,sha2")
    script = str(ROOT / "cluster" / "lines" / "torn_packages.py")
    said = subprocess.run([str(tmp_path / "bin" / "python"), script], capture_output=True, text=True, check=True)
    assert {name for name, metadata in found.items() if metadata.exists()} == {"whole"}
    assert "gone-1.0 is not whole: it is installed again" in said.stdout
    assert len(said.stdout.splitlines()) == 6
