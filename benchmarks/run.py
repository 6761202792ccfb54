"""Run the benchmarks whose names contain a word, one after another, and list their last lines.

python benchmarks/run.py [WORD]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

NOTHING_MEASURED = 77  # what a benchmark ends with that is left out: no GPU, no whole Petastorm
HERE = Path(__file__).resolve().parent


def last_line(output: str) -> dict[str, object] | None:
    """The JSON object that a benchmark prints last, or None where it is not one."""
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [p for p in sorted(HERE.glob("*.py")) if word in p.stem and p.stem != "run" and not p.stem.startswith("_")]
    if not chosen:
        print(
            f"no benchmark's name contains '{word}'; there are: {', '.join(p.stem for p in sorted(HERE.glob('*.py')))}"
        )
        return 2
    failed = 0
    for path in chosen:
        print(f"== {path.stem}", flush=True)
        done = subprocess.run(
            [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=HERE.parent, check=False
        )
        print(done.stdout, end="", flush=True)
        result = last_line(done.stdout)
        if done.returncode == NOTHING_MEASURED:
            continue
        if done.returncode != 0 or result is None:
            failed += 1
            print(f"   {path.stem} failed (exit code {done.returncode})", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
