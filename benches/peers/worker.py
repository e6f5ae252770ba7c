"""worker.py SUITE PEER FOLDER: one Python peer on one case, by the protocol of README.md."""

import importlib
import json
import sys
import time
from pathlib import Path


def memory(key):
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def answer(**fields):
    print(json.dumps(fields), flush=True)


def main():
    suite, peer, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    case = json.loads((folder / "case.json").read_text())
    run, outputs = importlib.import_module(suite).PEERS[peer](case, folder)
    answer(resident_bytes=memory("VmRSS:"))
    for line in sys.stdin:
        if line.strip() == "run":
            start, cpu = time.perf_counter(), time.process_time()
            run()
            answer(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
        else:
            peak = memory("VmHWM:")
            import numpy

            (folder / peer).mkdir(exist_ok=True)
            for name, value in outputs().items():
                numpy.save(folder / peer / f"{name}.npy", value)
            answer(peak_bytes=peak)


main()
