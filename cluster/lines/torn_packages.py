"""Forget the packages of this Python's environment that are not whole, so that the next installation brings them again.

    .venv/bin/python cluster/lines/torn_packages.py

An installer that is killed, or whose disk is full, leaves packages whose metadata is there and whose files are not, and
takes them for installed from then on. Whole is a package whose RECORD goes to its end (it names itself) and all of
whose files, but those that Python compiles anew by itself, have the size that it says. Says each that it forgets.
"""

from __future__ import annotations

import csv
import shutil
import sysconfig
from pathlib import Path


def is_whole(metadata: Path) -> bool:
    """Whether all files are there that the package of this `.dist-info` folder consists of."""
    try:
        rows = [row for row in csv.reader((metadata / "RECORD").read_text(encoding="utf-8").splitlines()) if row]
        sizes = {name: size for name, _, size in rows}
    except (OSError, ValueError):
        return False
    if not {f"{metadata.name}/RECORD", f"{metadata.name}/METADATA"} <= sizes.keys():
        return False
    files = {metadata.parent / name: int(size) for name, size in sizes.items() if size and not name.endswith(".pyc")}
    return all(file.is_file() and file.stat().st_size == size for file, size in files.items())


def main() -> None:
    paths = sysconfig.get_paths()
    for folder in sorted({Path(paths["purelib"]), Path(paths["platlib"])}):
        for metadata in sorted(folder.glob("*.dist-info")):
            if not is_whole(metadata):
                print(f"{metadata.name.removesuffix('.dist-info')} is not whole: it is installed again")
                shutil.rmtree(metadata)


if __name__ == "__main__":
    main()
