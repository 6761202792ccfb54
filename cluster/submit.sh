#!/usr/bin/env bash
# Submit one job to a Spark cluster, with Delta and this checkout's packages.
#
#   cluster/submit.sh JOB [spark-submit options] -- [--settings FILE] [section.key=value ...]
#   cluster/submit.sh build_examples --master yarn --deploy-mode client -- --settings shop.yaml tables.root=s3a://shop/tables
#
# The packages go as a .zip: Spark puts zips on the executors' import path, wheels only on the driver's. The other
# packages (torch, horovod, ...) must be in the executors' Python: an image, or --archives env.tar.gz#env with
# --conf spark.pyspark.python=env/bin/python (docs/cluster.md).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
job="${1:?usage: cluster/submit.sh JOB [spark-submit options] -- [job arguments]}"
shift
[ -f "$here/jobs/$job.py" ] || {
    echo "there is no job '$job'; the jobs are the files of jobs/, e.g. ingest, build_examples, train, score" >&2
    exit 2
}
options=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
done
[ "${1:-}" = -- ] && shift

python="${PYSPARK_DRIVER_PYTHON:-$here/.venv/bin/python}"
command -v "$python" >/dev/null || {
    echo "there is no Python '$python': make install makes it, or set PYSPARK_DRIVER_PYTHON to the driver's" >&2
    exit 2
}
export PYSPARK_DRIVER_PYTHON="$python" PYSPARK_PYTHON="${PYSPARK_PYTHON:-$python}"
submit="${SPARK_HOME:+$SPARK_HOME/bin/}spark-submit"
command -v "$submit" >/dev/null || submit="$(dirname "$python")/spark-submit"

packages="$(mktemp -d)/millrace.zip"
trap 'rm -rf "$(dirname "$packages")"' EXIT
"$python" - "$here" "$packages" <<'PY'
import sys, zipfile
from pathlib import Path
root, target = Path(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
    for package in ("jobs", "spark_udfs", "training", "tuning", "cluster"):
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(root))
PY
delta="$("$python" - <<'PY'
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession
print(configure_spark_with_delta_pip(SparkSession.builder)._options["spark.jars.packages"])
PY
)"
"$submit" --packages "$delta" \
    --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \
    --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog \
    --conf spark.sql.session.timeZone=UTC \
    --py-files "$packages" ${options[@]+"${options[@]}"} "$here/jobs/$job.py" "$@"
