#!/usr/bin/env bash
# Install Millrace on a vendor's runtime and leave what the runtime is built around (Spark, torch, pyarrow, numpy, pandas)
# as it is. Runs on every node, before Spark starts: an init script (Databricks), an initialization action (Dataproc), a
# bootstrap action (EMR).
#
#   cluster/install_on_runtime.sh [PYTHON [FOLDER]]
#
# PYTHON is the cluster's: /databricks/python/bin/python where there is one, else python3. FOLDER, or MILLRACE_WHEELS, is
# where every node sees two wheels: Millrace's (make wheel), and Horovod's, which cluster/horovod/build.sh has built once
# on a node of this very runtime (docs/platforms.md).
set -euo pipefail
python="${1:-/databricks/python/bin/python}"
[ -n "${1:-}" ] || [ -x "$python" ] || python=python3
folder="${2:-${MILLRACE_WHEELS:?set it to the folder with the wheels of millrace and horovod}}"
die() { echo "millrace: $*" >&2; exit 1; }

tag="cp$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')"
millrace="$(compgen -G "$folder/millrace-*.whl" | tail -1)" ||
    die "there is no millrace-*.whl in $folder. Make it (make wheel) and copy it there"
horovod="$(compgen -G "$folder/horovod-*-$tag-*.whl" | tail -1)" ||
    die "there is no horovod-*-$tag-*.whl in $folder. Build it on a node of this runtime: cluster/horovod/build.sh $python"

"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' ||
    die "$python has no torch, and Horovod is compiled against one. Install the torch that its wheel was built against first"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
pip() { "$python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip --no-deps "$millrace" "$horovod" petastorm==0.12.1 six
"$python" - "$work" <<'PY'
import sys
from pathlib import Path

from jobs.checks.bounds import to_install, to_keep

for name, lines in (("requirements", to_install()), ("constraints", to_keep())):
    Path(sys.argv[1], f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
PY
[ ! -s "$work/requirements.txt" ] || pip --constraint "$work/constraints.txt" --requirement "$work/requirements.txt"
echo "millrace: installed beside $(tr '\n' ' ' <"$work/constraints.txt")"
