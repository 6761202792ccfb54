#!/usr/bin/env bash
# Build Horovod's wheel from its source package against the torch that is installed, and install it.
#
#   cluster/horovod/build.sh PYTHON            Gloo, for CPUs
#   GPU=1 cluster/horovod/build.sh PYTHON      Gloo and NCCL; the same wheel still runs without a GPU. nvcc comes from
#                                              packages (CUDA 13), or CUDA_HOME names a toolkit of torch's CUDA
#
# PYTHON is the environment's interpreter; torch must be in it. The wheel is kept under
# ${MILLRACE_CACHE:-~/.cache/millrace}/horovod/KEY, where KEY hashes all that the build depends on,
# so that the second environment on a machine installs in a second.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${1:?usage: cluster/horovod/build.sh PYTHON}"
python="$(command -v "$python" || echo "$python")" # of the search path, if it is a name alone
python="$(cd "$(dirname "$python")" && pwd)/$(basename "$python")"
gpu="${GPU:-0}"
version="0.28.1"
cache="${MILLRACE_CACHE:-$HOME/.cache/millrace}/horovod"
say() { echo "horovod: $*"; }
die() { say "$*" >&2; exit 1; }
# pip ends with an error of its own where it is interrupted; bash runs this before it looks at that.
interrupted() { say "interrupted; nothing was installed. The same command begins the build again" >&2; exit "$1"; }
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

compiler="${CXX:-g++}"
command -v "$compiler" >/dev/null || die "no C++ compiler named '$compiler'. Install one: apt-get install -y g++ make"
command -v make >/dev/null || die "no 'make'. Install it: apt-get install -y make"

facts="$("$python" - <<'PY'
import sys, torch
print(sys.implementation.cache_tag, torch.__version__, torch.version.cuda or "cpu", int(torch.compiled_with_cxx11_abi()))
PY
)" || die "torch cannot be imported by $python; install the requirements first: make install"
read -r tag torch_version cuda abi <<<"$facts"
targets="${HOROVOD_BUILD_CUDA_CC_LIST:-80,90}"
gpu_facts=none
if [ "$gpu" = 1 ]; then
    gpu_facts="$targets ${CUDA_HOME:-packages} $([ -z "${CUDA_HOME:-}" ] || "$CUDA_HOME/bin/nvcc" --version 2>/dev/null || true)"
fi
key="$(printf '%s\n' "$version" "$facts" "$gpu_facts" "$("$compiler" --version | head -1)" "$(uname -m)" "$(ldd --version 2>&1 | head -1)" \
    "$(cat "$here/cxx" "$here/build.sh" | sha256sum)" | sha256sum | cut -c1-16)"

install_wheel() {
    "$python" -m pip install --quiet --no-deps --force-reinstall "$cache/$key"/horovod-*.whl
    say "installed $(basename "$cache/$key"/horovod-*.whl) (built for torch $torch_version, $([ "$gpu" = 1 ] && echo 'NCCL and Gloo' || echo Gloo))"
}

if compgen -G "$cache/$key/horovod-*.whl" >/dev/null; then
    say "a wheel for these inputs is in the cache ($cache/$key)"
    install_wheel
    exit 0
fi

say "building $version from its source package for $tag, torch $torch_version, $([ "$gpu" = 1 ] && echo "CUDA $cuda with NCCL" || echo 'CPUs (Gloo)')."
say "it has no wheels of its own and must match the installed torch; 4 to 8 minutes on 2 cores, once a machine"
mkdir -p "$cache"
work="$(mktemp -d "$cache/build.XXXXXX")"
trap 'rm -rf "$work"' EXIT

# A build environment of its own: Horovod's setup.py wants setuptools < 70, the installed torch wants a newer one.
"$python" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet "setuptools<70" "cmake<4" ninja wheel packaging
site="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
echo "$site" >"$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torch-of-the-environment.pth"

export MILLRACE_REAL_CXX="$compiler" CXX="$here/cxx" PATH="$work/env/bin:$PATH" MAKEFLAGS="-j$(nproc)"
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITH_GLOO=1
unset HOROVOD_GPU HOROVOD_GPU_OPERATIONS

if [ "$gpu" = 1 ]; then
    [ "$cuda" != cpu ] || die "GPU=1, but torch $torch_version is a CPU build. Install a CUDA build of torch, or leave GPU out"
    series="${cuda%%.*}.$(cut -d. -f2 <<<"$cuda")"
    if [ -n "${CUDA_HOME:-}" ]; then
        home="$CUDA_HOME"
        [ -x "$home/bin/nvcc" ] || die "CUDA_HOME is $home, which holds no bin/nvcc. Set it to a toolkit of CUDA $series, or unset it"
    else
        say "taking nvcc and its headers (CUDA $series) from their packages"
        "$work/env/bin/python" -m pip install --quiet --target "$work/toolkit" --no-deps \
            "nvidia-cuda-nvcc==$series.*" "nvidia-cuda-crt==$series.*" "nvidia-cuda-cccl==$series.*" \
            "nvidia-cuda-runtime==$series.*" "nvidia-nvvm==$series.*" ||
            die "the packages of CUDA $series could not be installed. Set CUDA_HOME to a toolkit of CUDA $series"
        home="$work/toolkit/nvidia/cu${cuda%%.*}"
        [ -x "$home/bin/nvcc" ] || die "the package of nvcc holds no bin/nvcc under $home. Set CUDA_HOME to a toolkit of CUDA $series"
        ln -sfn lib "$home/lib64"
        ln -sf "$(basename "$(ls "$home"/lib/libcudart.so.* | head -1)")" "$home/lib/libcudart.so"
    fi
    [ -d "$site/nvidia/nccl" ] || die "torch $torch_version brought no NCCL (nothing at $site/nvidia/nccl)"
    nccl="$work/nccl"
    mkdir -p "$nccl"
    cp -r "$site/nvidia/nccl/include" "$site/nvidia/nccl/lib" "$nccl/"
    ln -sf libnccl.so.2 "$nccl/lib/libnccl.so"
    export CUDA_HOME="$home" HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED HOROVOD_CUDA_HOME="$home" HOROVOD_NCCL_HOME="$nccl"
    export CUDACXX="$home/bin/nvcc" HOROVOD_BUILD_CUDA_CC_LIST="$targets"
fi

tested="$(sed -n 's/^ *"\(torch[<>=!~][^"]*\)".*/\1/p' "$here/../../pyproject.toml" 2>/dev/null || true)"
log="$cache/build-$key.log"
"$work/env/bin/python" -m pip wheel --no-build-isolation --no-deps --no-cache-dir --no-binary horovod --wheel-dir "$work/wheel" "horovod==$version" >"$log" 2>&1 || {
    # The last lines are pip's and the build script's own; what went wrong stands far above them.
    { grep -E -m 8 -A 3 '[Ee]rror: |CMake Error' "$log" || tail -40 "$log"; } >&2
    say "the build against torch $torch_version failed; its whole log: $log" >&2
    die "it is tested with ${tested:-the torch of cluster/lines/}. A later torch may ask for a newer C++ standard than cxx sets (-std=gnu++20), or a newer compiler than $("$compiler" --version | head -1)"
}
mkdir -p "$cache/$key"
mv "$work"/wheel/horovod-*.whl "$cache/$key/"
install_wheel
