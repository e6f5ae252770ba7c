#!/usr/bin/env bash
# Checks and times the kernels on a GPU machine that has neither Rust nor network.
#   gpu-check.sh prepare [FOLDER]   here: builds what the other machine runs into FOLDER (default target/gpu-check), and
#                                   fetches the peers that fit beside it; FOLDER stays below 60 MiB
#   gpu-check.sh script FOLDER      here: writes FOLDER/run alone
#   FOLDER/run [SECONDS]            there: every test that the emulator runs, on the GPU; then the times, ours and, where
#                                   a Python with PyTorch is there (PYTHON names another than python3), other systems';
#                                   then a sanitizer if there is one. In SECONDS in all (default 540): what fails, or
#                                   takes longer than its share, is listed at the end, and the rest runs all the same.
#                                   What each step says, and the tables, go to the folder OUT (default: FOLDER/results) as they come.
#                                   Exit status: 0, 1 if a step failed or found no time, 3 without a GPU
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

write_run() { # folder
    cat >"$1/run" <<'RUN'
#!/usr/bin/env bash
# Written by gpu-check.sh, which says what it does. Needs NVIDIA's driver and nothing else.
set -uo pipefail
# A relative OUT is meant from where the script is called.
case ${OUT:-} in '' | /*) ;; *) OUT=$PWD/$OUT ;; esac
cd "$(dirname "$0")"
here=$PWD
budget=${1:-${GPU_CHECK_SECONDS:-540}}
case $budget in '' | *[!0-9]*) echo "run [SECONDS]: $budget is not a number of seconds" >&2; exit 2 ;; esac
results=${OUT:-$here/results}
mkdir -p "$results"
python=${PYTHON:-python3}
failed=() ran=0

if ! gpus=$(nvidia-smi -L 2>&1) || ! grep -q '^GPU ' <<<"$gpus"; then
    echo "no GPU: nvidia-smi -L says: ${gpus:-nothing}" | tee "$results/summary.txt"
    echo "nothing was checked; run this where NVIDIA's driver sees a GPU"
    exit 3
fi
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv 2>&1 | tee "$results/gpu.txt"
# What the driver compiles of the PTX is kept for the next process, and the next start.
export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$here/cuda-cache} CUDA_CACHE_MAXSIZE=${CUDA_CACHE_MAXSIZE:-1073741824}
mkdir -p "$CUDA_CACHE_PATH"
# cuBLAS: where the loader finds it, or PyTorch's own.
if folder=$(timeout 20 "$python" - 2>/dev/null <<'FIND'
import glob, os, site
roots = site.getsitepackages() + [site.getusersitepackages()]
found = [f for root in roots for f in glob.glob(os.path.join(root, "nvidia", "*", "lib", "libcublas.so.1[23]"))]
print(os.path.dirname(sorted(found)[-1]))
FIND
); then
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
fi
export EMBEDTUNE_REQUIRE_GPU=1

# A step has at most `limit` seconds, and what is left of the budget. Its output goes to a file; the end of it is shown where
# it fails, all of it where `shown` is yes.
step() { # name, limit, shown, command
    local name=$1 limit=$2 shown=$3 left=$((budget - SECONDS)) begun=$SECONDS status=0
    shift 3
    if [ "$left" -lt 5 ]; then
        echo "== $name: no time left, not run" | tee -a "$results/summary.txt"
        failed+=("$name (no time left)")
        return 1
    fi
    [ "$limit" -lt "$left" ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$results/$name.txt" 2>&1 || status=$?
    ran=$((ran + 1))
    if [ "$shown" = yes ]; then cat "$results/$name.txt"; fi
    if [ "$status" -eq 0 ]; then
        echo "== $name: ok, $((SECONDS - begun)) s" | tee -a "$results/summary.txt"
        return 0
    fi
    [ "$shown" = yes ] || tail -n 40 "$results/$name.txt"
    local why="status $status"
    case $status in 124 | 137) why="ended after $limit s" ;; esac
    echo "== $name: FAILED, $why; $results/$name.txt" | tee -a "$results/summary.txt"
    failed+=("$name ($why)")
    return 1
}
: >"$results/summary.txt"

# What a result is worth first. A test of what the stand-in driver does returns at once on a GPU.
for tests in margin triplet pooling optimizer; do
    step "tests-$tests" 90 no ./tests --ignored --test-threads=1 "$tests::"
done
# With cuBLAS the margin losses are tested once more.
if [ $((budget - SECONDS)) -gt 5 ] && EMBEDTUNE_TEST_TASK=cublas_is_here \
    timeout 20 ./tests --ignored --exact cublas::cublas_is_here >"$results/cublas.txt" 2>&1; then
    step tests-cublas 90 no env EMBEDTUNE_TEST_PRODUCTS=cublas ./tests --ignored --test-threads=1 margin::
else
    echo "no cuBLAS found (a Python with PyTorch has one): its products are not tested" | tee -a "$results/summary.txt"
fi
step times 200 yes ./times "$results/times.json"
if command -v "$python" >/dev/null; then
    ours=()
    [ ! -s "$results/times.json" ] || ours=(--ours "$results/times.json")
    left=$((budget - SECONDS - 10))
    [ "$left" -lt 200 ] || left=200
    step peers 220 yes env PYTHONPATH="$PWD/wheels${PYTHONPATH:+:$PYTHONPATH}" \
        "$python" peers.py "${ours[@]}" --out "$results/peers.json" --seconds "$left"
else
    echo "no Python here: no peers; the table is times.txt" | tee -a "$results/summary.txt"
fi
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        for tests in sizes_that_fill_no_tile triplet:: pooling::maps; do
            step "$tool-${tests%%::*}" 60 no \
                compute-sanitizer --tool "$tool" --error-exitcode 1 ./tests --ignored --test-threads=1 "$tests"
        done
    done
else
    echo "compute-sanitizer is not here: not run" | tee -a "$results/summary.txt"
fi
{
    echo
    if [ ${#failed[@]} -eq 0 ]; then
        echo "all $ran steps went well, $SECONDS s"
    else
        echo "${#failed[@]} steps did not go well, $SECONDS s:"
        printf '  %s\n' "${failed[@]}"
    fi
} | tee -a "$results/summary.txt"
[ ${#failed[@]} -eq 0 ]
RUN
    chmod +x "$1/run"
}

case ${1:-} in
prepare) ;;
script)
    mkdir -p "${2:?gpu-check.sh script FOLDER}"
    write_run "$2"
    exit
    ;;
*) sed -n '2,11p' "$0"; exit 2 ;;
esac
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
write_run "$out"
size=$(du -sk "$out" | cut -f1)
echo "$((size / 1024)) MiB"
if [ "$size" -gt $((60 * 1024)) ]; then
    echo "$out is larger than 60 MiB: leave out wheels/" >&2
    exit 1
fi
echo "copy $out to the GPU machine and start ./run"
