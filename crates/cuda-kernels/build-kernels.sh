#!/usr/bin/env bash
# Compiles kernels/*.cu to the PTX text under ptx/, which is committed: users need neither compiler nor toolkit.
# With --check it compares byte for byte instead of writing, as .ci/run does. Either way it then examines the machine
# code that ptxas makes of it (--fetch only fetches): no spills, registers within their caps, tensor-core and 16-byte instructions present.
# Needs Python 3 with pip on x86-64 Linux, and no GPU; it fetches 66 MB of pinned wheels once, to target/kernel-tools.
#
# The compiler is the oldest of CUDA 12: its PTX 8.0 loads in every driver from 525.60 (CUDA 12.0) on. The examining
# tools are newer, and their versions decide nothing that users run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
tools=$target/kernel-tools

fetch() { # folder, wheels
    local folder=$tools/$1
    shift
    if [ -f "$folder/complete" ] && [ "$(cat "$folder/complete")" = "$*" ]; then return; fi
    rm -rf "$folder"
    mkdir -p "$folder"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux1_x86_64 \
        --dest "$folder" "$@"
    for wheel in "$folder"/*.whl; do
        python3 -m zipfile -e "$wheel" "$folder"
        rm "$wheel"
    done
    chmod +x "$folder"/nvidia/*/bin/* 2>/dev/null || true
    echo "$*" >"$folder/complete"
}

fetch compiler nvidia-cuda-nvrtc-cu12==12.0.76
fetch tools nvidia-cuda-nvcc==13.0.88 nvidia-cuda-nvdisasm==13.2.86
if [ "${1:-}" = --fetch ]; then exit; fi
exec python3 "$here/build-kernels.py" --wheels "$tools" "$@"
