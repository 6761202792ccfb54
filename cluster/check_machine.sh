#!/usr/bin/env bash
# Name everything that this machine lacks to install and run Millrace, at once, with the command that installs it.
set -uo pipefail
python="${1:-python3.11}"
missing=()
need() { missing+=("  - $1"$'\n'"      $2"); }

if ! command -v "$python" >/dev/null; then
    need "Python 3.11 or 3.12 as '$python'" "apt-get install -y python3.11 python3.11-venv python3.11-dev   (or: make ... PYTHON=/path/to/python)"
elif ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
    need "Python 3.11 or 3.12; '$python' is $("$python" --version 2>&1)" "make ... PYTHON=python3.11"
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    need "Python's venv module" "apt-get install -y python3-venv"
elif ! "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'; then
    need "Python's headers (Horovod is compiled)" "apt-get install -y python3-dev"
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
[ "${free_mb:-0}" -ge 9000 ] || [ -d .venv ] || need "9 GB of free disk here (torch is most of it); there are ${free_mb} MB" "free some, or clone elsewhere"

if [ "${#missing[@]}" -gt 0 ]; then
    echo "This machine lacks ${#missing[@]} thing(s) that Millrace needs:" >&2
    printf '%s\n' "${missing[@]}" >&2
    exit 1
fi
