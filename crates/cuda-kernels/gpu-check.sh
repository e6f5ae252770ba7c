#!/usr/bin/env bash
# Checks and times the kernels on a GPU machine that has neither Rust nor network.
#   gpu-check.sh prepare [FOLDER]   here: builds what the other machine runs into FOLDER (default target/gpu-check)
#   FOLDER/run                      there: every test that the emulator runs, on the GPU; then a sanitizer if there is
#                                   one; then the times. Prints one table at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ "${1:-}" = prepare ] || { sed -n '2,5p' "$0"; exit 2; }
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
cat >"$out/run" <<'RUN'
#!/usr/bin/env bash
# Written by gpu-check.sh. Needs NVIDIA's driver and nothing else.
set -euo pipefail
cd "$(dirname "$0")"
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv || true
# A test of what the stand-in driver does returns at once on a GPU.
EMBEDTUNE_REQUIRE_GPU=1 ./tests --ignored --test-threads=1
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "sizes_that_fill_no_tile"
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "triplet::"
        compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "pooling::"
    done
else
    echo "compute-sanitizer is not here: not run"
fi
./times | tee times.md
RUN
chmod +x "$out/run"
du -ch "$out"/* | tail -1
echo "copy $out to the GPU machine and start ./run"
