#!/usr/bin/env bash
# Checks and times the kernels on a GPU machine that has neither Rust nor network.
#   gpu-check.sh prepare [FOLDER]   here: builds what the other machine runs into FOLDER (default target/gpu-check), and
#                                   fetches the peers that fit beside it; FOLDER stays below 60 MiB
#   FOLDER/run                      there: every test that the emulator runs, on the GPU; then a sanitizer if there is
#                                   one; then the times, ours and, where a Python with PyTorch is there (PYTHON names
#                                   another than python3), other systems'. Prints one table at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ "${1:-}" = prepare ] || { sed -n '2,7p' "$0"; exit 2; }
root=$(cd "$here/../.." && pwd)
out=${2:-$root/target/gpu-check}
mkdir -p "$out"

built() { # kind of the artifact, name of the target: its path, from cargo's messages
    sed -n "s/.*\"kind\":\[\"$1\"\].*\"name\":\"$2\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -1
}
cd "$root"
tests=$(cargo test --release -p embedtune-cuda-kernels --test emulated --no-run --message-format json | built test emulated)
times=$(cargo build --release -p embedtune-cuda-kernels --example gpu_times --message-format json | built example gpu_times)
cp "$tests" "$out/tests"
cp "$times" "$out/times"
strip "$out/tests" "$out/times" 2>/dev/null || true

# The peers that are Python alone; PyTorch and Triton are the other machine's. A peer that cannot be fetched is missing
# from the table, which says so.
cp "$here/gpu_peers.py" "$out/peers.py"
rm -rf "$out/wheels"
mkdir -p "$out/wheels"
for peer in pytorch-metric-learning==2.9.0 cut-cross-entropy==25.1.1 liger-kernel==0.8.2; do
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$out/wheels" "$peer"; then
        wheel=$(ls -t "$out"/wheels/*.whl | head -1)
        python3 -m zipfile -e "$wheel" "$out/wheels"
        rm "$wheel"
    else
        echo "$peer cannot be fetched: it will be missing" >&2
    fi
done
cat >"$out/run" <<'RUN'
#!/usr/bin/env bash
# Written by gpu-check.sh. Needs NVIDIA's driver and nothing else.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv || true
# cuBLAS: where the loader finds it, or PyTorch's own.
if folder=$("$python" - 2>/dev/null <<'FIND'
import glob, os, site
roots = site.getsitepackages() + [site.getusersitepackages()]
found = [f for root in roots for f in glob.glob(os.path.join(root, "nvidia", "*", "lib", "libcublas.so.1[23]"))]
print(os.path.dirname(sorted(found)[-1]))
FIND
); then
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
fi
# A test of what the stand-in driver does returns at once on a GPU. With cuBLAS the margin losses are tested once more.
EMBEDTUNE_REQUIRE_GPU=1 ./tests --ignored --test-threads=1
if EMBEDTUNE_REQUIRE_GPU=1 EMBEDTUNE_TEST_TASK=cublas_is_here ./tests --ignored --exact cublas::cublas_is_here; then
    EMBEDTUNE_REQUIRE_GPU=1 EMBEDTUNE_TEST_PRODUCTS=cublas ./tests --ignored --test-threads=1 margin::
else
    echo "no cuBLAS here (a Python with PyTorch has one): its products are not tested"
fi
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "sizes_that_fill_no_tile"
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "triplet::"
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "pooling::"
    done
else
    echo "compute-sanitizer is not here: not run"
fi
./times times.json | tee times.md
if command -v "$python" >/dev/null; then
    PYTHONPATH="$PWD/wheels${PYTHONPATH:+:$PYTHONPATH}" "$python" peers.py --ours times.json | tee peers.md
else
    echo "no Python here: no peers; the table is times.md"
fi
RUN
chmod +x "$out/run"
size=$(du -sk "$out" | cut -f1)
echo "$((size / 1024)) MiB"
if [ "$size" -gt $((60 * 1024)) ]; then
    echo "$out is larger than 60 MiB: leave out wheels/" >&2
    exit 1
fi
echo "copy $out to the GPU machine and start ./run"
