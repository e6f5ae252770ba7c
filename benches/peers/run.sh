#!/usr/bin/env bash
# Runs embedtune beside the systems that people use:
#   benches/peers/run.sh {losses|triplets|pooling|training|retrieval|all} [--rounds N] [--only TEXT] [--json FILE] [--keep]
# Prints one table and writes one JSON file (target/peers/SUITE.json). README.md says what is measured.
#
# Python is EMBEDTUNE_PYTHON, or an environment with the pinned requirements made in target/peers/venv.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

case "${1:-}" in
    losses | triplets | pooling | training | retrieval | all) ;;
    *)
        sed -n '2,3s/^# //p' "$0" >&2
        exit 2
        ;;
esac

python=${EMBEDTUNE_PYTHON:-}
if [ -z "$python" ]; then
    venv=target/peers/venv
    if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/installed.txt"
    fi
    python=$venv/bin/python
fi

cargo build --quiet --release -p embedtune-benches --bins
# The bare products' crates stay out of the workspace's lock file.
cargo build --quiet --release --manifest-path "$here/products/Cargo.toml" --target-dir target/peers/products
if [ "$1" = training ] || [ "$1" = all ]; then
    for peer in candle burn; do
        cargo build --quiet --release --manifest-path "$here/$peer/Cargo.toml" --target-dir "target/peers/$peer"
    done
fi
exec "$python" "$here/compare.py" "$@"
