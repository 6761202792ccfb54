#!/usr/bin/env bash
# Name everything that this machine lacks to install and run Millrace, at once, with the command that installs it.
# Prints the Python to take: the first of those asked for that really runs, with venv and headers.
#
#   cluster/check_machine.sh FOLDER 3.13 3.12 3.11      versions in the order of preference; FOLDER is the environment
#   PYTHON=/opt/python cluster/check_machine.sh ...     this Python alone, if it is of one of these versions
#
# An environment that is there keeps its Python, if that runs. Otherwise all of the search path are tried, and pyenv's: its
# shims stand on the path for every version that it has, and run only those that are switched on.
set -uo pipefail
folder="$1"
shift
missing=()
need() { missing+=("  - $1"$'\n'"      $2"); }

# Nothing if this Python will do as one of the versions; otherwise why not.
unfit() {
    local code='
import os, sys, sysconfig
version = ".".join(map(str, sys.version_info[:2]))
if version not in sys.argv[1:]:
    sys.exit(f"is Python {version}")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(f"has no venv module: apt-get install -y python{version}-venv")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit(f"has no headers, and Horovod is compiled: apt-get install -y python{version}-dev")
'
    command -v "$1" >/dev/null || { echo "is not there" && return; }
    local said
    said="$("$1" -c "$code" "${@:2}" 2>&1 >/dev/null)" || head -1 <<<"${said:-does not run}"
}

candidates() { # a line each: versions, tab, command
    local version
    if "$folder/bin/python" -c '' 2>/dev/null; then
        printf '%s\t%s\n' "$*" "$folder/bin/python"
    elif [ -n "${PYTHON:-}" ]; then
        printf '%s\t%s\n' "$*" "$PYTHON"
    else
        for version in "$@"; do
            { type -ap "python$version"; compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version.*/bin/python$version"; } |
                sed "s|^|$version\t|"
        done
    fi
}

python=""
passed_over=""
while IFS=$'\t' read -r versions candidate; do
    read -ra versions <<<"$versions"
    why="$(unfit "$candidate" "${versions[@]}")"
    if [ -z "$why" ]; then
        python="$candidate"
        break
    fi
    passed_over+="; $candidate $why"
done < <(candidates "$@")
if [ -z "$python" ]; then
    need "Python $(sed 's/ / or /g' <<<"$*") that runs, with venv and headers${passed_over:+ (${passed_over#; })}" \
        "apt-get install -y python3 python3-venv python3-dev, where that is such a Python   (or: make ... PYTHON=/path/to/python)"
fi

java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
if ! command -v "$java" >/dev/null; then
    need "Java 17 (Spark runs on it)" "apt-get install -y openjdk-17-jre-headless"
else
    major="$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)"
    if [ "${major:-0}" != 17 ] && [ "${major:-0}" != 21 ]; then
        need "Java 17 or 21; '$java' is version ${major:-unknown}" "apt-get install -y openjdk-17-jre-headless; export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64"
    fi
fi

command -v "${CXX:-g++}" >/dev/null || need "a C++ compiler (Horovod is compiled)" "apt-get install -y g++"
command -v make >/dev/null || need "make" "apt-get install -y make"
free_mb="$(df -Pm . | awk 'NR==2 {print $4}')"
[ "${free_mb:-0}" -ge 9000 ] || [ -e "$folder/bin/python" ] || need "9 GB of free disk here (torch is most of it); there are ${free_mb} MB" "free some, or clone elsewhere"

if [ "${#missing[@]}" -gt 0 ]; then
    echo "This machine lacks ${#missing[@]} thing(s) that Millrace needs:" >&2
    printf '%s\n' "${missing[@]}" >&2
    exit 1
fi
echo "$python"
