"""compare.py SUITE [--rounds N] [--only TEXT] [--json FILE] [--keep]; called by run.sh, explained in README.md."""

import argparse
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SUITES = ["losses", "triplets", "pooling", "training", "retrieval"]
# Seconds that short runs are repeated in one turn.
TURN = 0.15
# Rows compared at once: two arrays of a gigabyte need not be in memory together.
BLOCK = 65536


def command(suite, peer, folder):
    """How a peer's process is started."""
    if peer == "ours":
        return [ROOT / "target/release/peer", suite, folder]
    if peer in ("products-gemm", "products-faer"):
        return [ROOT / "target/peers/products/release/embedtune-peer-products", peer[9:], folder]
    if suite == "training" and peer in ("candle", "burn"):
        return [ROOT / f"target/peers/{peer}/release/embedtune-peer-{peer}", folder]
    return [sys.executable, HERE / "worker.py", suite, peer, folder]


class Peer:
    """A process that stays alive through a case's rounds."""

    def __init__(self, suite, name, folder):
        self.name, self.seconds, self.cpu_seconds = name, [], []
        arguments = [str(part) for part in command(suite, name, folder)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.resident = self.read("resident_bytes")

    def read(self, key):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended early with {self.process.wait()}")
        return json.loads(line)[key]

    def ask(self, request, key):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.read(key)

    def processor_seconds(self):
        """Of all threads so far, to a hundredth (Linux); 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, counted):
        """One turn: a run, and more for TURN seconds, of which the first is not counted. A loss is called step after
        step: what a single run of a few milliseconds costs after a pause is how long caches and threads take to wake."""
        before, runs = self.processor_seconds(), [self.ask("run", "seconds")]
        while sum(runs) < TURN:
            before, runs = self.processor_seconds() if len(runs) == 1 else before, runs + [self.ask("run", "seconds")]
        # The first round warms caches and buffers up.
        if counted:
            later = runs[1:] or runs
            self.seconds.append(statistics.median(later))
            self.cpu_seconds.append((self.processor_seconds() - before) / len(later))

    def finish(self):
        self.peak = self.ask("finish", "peak_bytes")
        self.process.stdin.close()
        self.process.wait()

    def result(self):
        s = sorted(self.seconds)
        return {"median": statistics.median(s), "min": s[0], "max": s[-1], "seconds": self.seconds,
                "cpu_median": statistics.median(self.cpu_seconds), "cpu_seconds": self.cpu_seconds,
                "peak_bytes": self.peak, "resident_bytes_when_ready": self.resident}


def differences(folder, peer, tolerances):
    """The largest difference of each output, relative to the peer's largest value; exits where it is too large."""
    found = {}
    for name, tolerance in tolerances.items():
        ours = numpy.load(folder / "ours" / f"{name}.npy", mmap_mode="r")
        theirs = numpy.load(folder / peer / f"{name}.npy", mmap_mode="r")
        if ours.shape != theirs.shape:
            sys.exit(f"{folder.name}: {name} is {ours.shape} here and {theirs.shape} in {peer}")
        error = size = 0.0
        for start in range(0, max(len(ours), 1) if ours.ndim else 1, BLOCK):
            part = (slice(start, start + BLOCK),) if ours.ndim else ()
            a, b = (v[part].astype(numpy.float64) for v in (ours, theirs))
            error, size = max(error, abs(a - b).max(initial=0)), max(size, abs(b).max(initial=0))
        found[name] = error / size if size else error
        # Written so that NaN fails.
        if not found[name] <= tolerance:
            sys.exit(f"{folder.name}: {name} differs from {peer} by {found[name]:.1e}; at most {tolerance:.0e} may be")
    return found


def run_case(suite, module, case, rounds, keep):
    folder = ROOT / "target/peers/cases" / case["name"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(case))
    module.write_inputs(case, folder)
    peers = [Peer(suite, name, folder) for name in case["peers"]]
    rounds = min(rounds, case.get("rounds") or rounds)
    for round_number in range(rounds + 1):
        for peer in peers:
            peer.run(counted=round_number > 0)
    for peer in peers:
        peer.finish()
    entry = {"case": case["name"], "parameters": case, "peers": {p.name: p.result() for p in peers}, "differences": {}}
    for peer in peers:
        if peer.name in case["tolerances"]:
            entry["differences"][peer.name] = differences(folder, peer.name, case["tolerances"][peer.name])
    ours = entry["peers"]["ours"]["median"]
    for result in entry["peers"].values():
        result["over_ours"] = result["median"] / ours
    if not keep:
        shutil.rmtree(folder)
    return entry


def print_rows(entry):
    for name, r in entry["peers"].items():
        times = " ".join(f"{1e3 * r[key]:>9.1f}" for key in ("median", "min", "max", "cpu_median"))
        agreement = entry["differences"].get(name)
        worst = f"{max(agreement.values()):.0e}" if agreement else ""
        print(f"{entry['case']:<36} {name:<14} {times} {r['over_ours']:>8.2f} {r['peak_bytes'] / 2**20:>9.0f} "
              f"{worst:>8}", flush=True)


def versions():
    found = {"python": platform.python_version(), "numpy": numpy.__version__}
    for name in ("torch", "pytorch_metric_learning", "faiss"):
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError:
            pass
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line),
                 platform.machine()) if os.path.exists("/proc/cpuinfo") else platform.machine()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), **found}


def main():
    parser = argparse.ArgumentParser(prog="run.sh")
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep inputs and outputs under target/peers/cases")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    # A peer that spins while it waits would take the other's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    report = {"machine": versions(), "rounds": options.rounds, "cases": []}
    print(f"{'case':<36} {'peer':<14} {'median ms':>9} {'min':>9} {'max':>9} {'cpu':>9} {'x ours':>8} {'peak MiB':>9} {'differ':>8}")
    for suite in SUITES if options.suite == "all" else [options.suite]:
        if not (HERE / f"{suite}.py").exists():
            print(f"{suite}: no cases yet")
            continue
        module = importlib.import_module(suite)
        for case in module.cases():
            if options.only in case["name"]:
                report["cases"].append(run_case(suite, module, case, max(options.rounds, 1), options.keep))
                print_rows(report["cases"][-1])
    target = options.json or ROOT / f"target/peers/{options.suite}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1))
    print(f"written to {target}")


main()
