"""Times other systems at the shapes of examples/gpu_times.rs, on the same GPU, and sets them beside ours in one table.

  gpu_peers.py [--ours FILE] [--out FILE] [--only TEXT] [--seconds N] [--dry-run]

--ours is what gpu_times wrote. With --dry-run everything runs at small sizes on the CPU, where the times mean nothing: that
the script works. A peer that is not here, that fails at a size, or for which no time is left of --seconds, is a line that
says why. --out gets all rows as JSON, written anew after each.

Times are medians of the device's own clock (CUDA events) after a warm-up, of as many runs as fit into a second and a half,
at least 3 and at most 20; the device is kept busy while the host queues them. Inputs take turns, so many of them that none
is still in the second-level cache. Extra memory is the peak beside inputs, parameters and their gradients. Ratios are to the
row of ours that computes the same to about the same accuracy, which the table names: of our own and cuBLAS's products the faster.
"""

import argparse
import importlib
import importlib.machinery
import json
import math
import os
import signal
import statistics
import sys
import time
import types

MIB = 1 << 20
UNCACHED = 128 * MIB
SCALE, MARGIN = 64.0, 0.5
# Classes of a tile of our class-tile path at batch 1024 and dim 512, forward and backward, for the rate of cuBLAS; what
# --ours says of it counts for more.
TILES = (7680, 4224)
TILE_CASE = "ArcFace (1024, 512, 100000)"
# Milliseconds that the runs of one case may take together, and that the device clock should tell of a sample at least.
CASE_MS, SAMPLE_MS = 1500.0, 2.0


class Device:
    """A GPU's clock and memory, or the CPU's for a dry run."""

    def __init__(self, torch, dry, seconds):
        self.torch, self.dry = torch, dry
        self.name = "cpu" if dry else "cuda"
        self.end = time.monotonic() + seconds
        # Bytes of what a run returns.
        self.expected = 0
        self.generator = torch.Generator(device=self.name).manual_seed(17)

    def normal(self, *shape, dtype=None):
        dtype = dtype or self.torch.float32
        values = self.torch.empty(shape, dtype=dtype, device=self.name)
        return values.normal_(generator=self.generator)

    def sets(self, size):
        """How many inputs of so many bytes take turns."""
        return 2 if self.dry else min(64, max(1, -(-UNCACHED // size)))

    def left(self):
        return self.end - time.monotonic()

    def memory(self):
        return 0 if self.dry else self.torch.cuda.memory_allocated()

    def timed(self, run, first, count, queueing):
        """Milliseconds of `count` runs, and those that the host took to queue them."""
        if self.dry:
            start = time.perf_counter()
            for i in range(first, first + count):
                run(i)
            ms = (time.perf_counter() - start) * 1e3
            return ms, ms
        cuda = self.torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        if queueing:
            # About 2e6 cycles a millisecond: no peer is charged for Python where the device could have had its work in time.
            cuda._sleep(int(min(2 * queueing, 200.0) * 2e6))
        start.record()
        host = time.perf_counter()
        for i in range(first, first + count):
            run(i)
        queued = (time.perf_counter() - host) * 1e3
        end.record()
        end.synchronize()
        return start.elapsed_time(end), queued

    def measure(self, run):
        """Median milliseconds of `run(i)`, and the bytes that it took at its peak beside what was there."""
        # The first run compiles; the second tells how many there is time for.
        run(0)
        peak = None
        if not self.dry:
            self.torch.cuda.synchronize()
            self.torch.cuda.reset_peak_memory_stats()
        before = self.memory()
        once, queueing = self.timed(run, 1, 1, 0.0)
        if not self.dry:
            peak = max(0, self.torch.cuda.max_memory_allocated() - before - self.expected)
        once = max(once, 1e-3)
        count = 1 if self.dry else int(min(50, max(1, math.ceil(SAMPLE_MS / once))))
        budget = min(CASE_MS, max(0.0, self.left() * 1e3 / 4))
        samples = 1 if self.dry else int(min(20, max(3, budget / (once * count))))
        times = [self.timed(run, 2 + i * count, count, queueing * count)[0] / count for i in range(samples)]
        return statistics.median(times), peak


class Missing(Exception):
    """Why a peer does not run here."""


def need(name):
    try:
        return importlib.import_module(name)
    except Exception as error:  # A package may fail in any way when it is imported.
        raise Missing(f"not here: {first_line(error)}") from error


class StandIn(types.ModuleType):
    """A module that has everything, and of which nothing is called."""

    def __init__(self, name):
        super().__init__(name)
        # Who looks whether the module is there (torch.compile does) takes one without for broken.
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(name)


def without_what_it_does_not_need():
    """pytorch-metric-learning imports these for other losses, and for what trains and tests: a machine without them times it
    all the same."""
    for name in ("scipy", "scipy.special", "scipy.stats", "sklearn", "sklearn.metrics", "sklearn.preprocessing", "tqdm"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = StandIn(name)


def first_line(error):
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"


def needs_gpu(device, name):
    if device.dry:
        raise Missing(f"{name} needs a GPU")


# ---- ArcFace, forward and both gradients. A peer takes the device and the sizes, and returns run(i).


class Inputs:
    """Embeddings, centres and labels, several of each."""

    def __init__(self, device, n, dim, classes, dtype=None, transposed=False):
        torch = device.torch
        size = torch.finfo(dtype or torch.float32).bits // 8
        self.count = device.sets(size * (n * dim + 2 * classes * dim))
        shape = (dim, classes) if transposed else (classes, dim)
        self.x = [device.normal(n, dim, dtype=dtype).requires_grad_() for _ in range(self.count)]
        self.w = [device.normal(*shape, dtype=dtype).requires_grad_() for _ in range(self.count)]
        # Of the gradients' own memory nothing is extra.
        device.expected = size * (n * dim + classes * dim)
        self.autograd = torch.autograd.grad
        self.labels = torch.arange(n, device=device.name) * 7919 % classes

    def step(self, loss):
        def run(i):
            x, w = self.x[i % self.count], self.w[i % self.count]
            self.autograd(loss(x, w, self.labels), [x, w])

        return run


def arcface(torch):
    functional = torch.nn.functional

    def loss(x, w, labels):
        cosines = functional.linear(functional.normalize(x), functional.normalize(w))
        target = cosines.gather(1, labels[:, None])
        # Away from 1, where the derivative of acos is infinite.
        moved = torch.cos(torch.acos(target.clamp(-1 + 1e-6, 1 - 1e-6).float()) + MARGIN).to(cosines.dtype)
        return functional.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], moved), labels)

    return loss


def eager(device, n, dim, classes):
    device.torch.backends.cuda.matmul.allow_tf32 = False
    return Inputs(device, n, dim, classes).step(arcface(device.torch))


def eager_tf32(device, n, dim, classes):
    needs_gpu(device, "TF32")
    device.torch.backends.cuda.matmul.allow_tf32 = True
    return Inputs(device, n, dim, classes).step(arcface(device.torch))


def compile_for(device, function):
    """Compiled for the sizes at hand alone: what an earlier case compiled would make them variables."""
    device.torch._dynamo.reset()
    return device.torch.compile(function, dynamic=False)


def compiled(device, n, dim, classes):
    compiled_loss = compile_for(device, arcface(device.torch))
    autocast = device.torch.autocast(device.name, dtype=device.torch.bfloat16)

    def loss(x, w, labels):
        with autocast:
            return compiled_loss(x, w, labels)

    return Inputs(device, n, dim, classes).step(loss)


def metric_learning(device, n, dim, classes):
    without_what_it_does_not_need()
    losses = need("pytorch_metric_learning.losses")
    device.torch.backends.cuda.matmul.allow_tf32 = False
    # It would draw its own centres on the host; ours take their place anyway.
    module = losses.ArcFaceLoss(2, dim, margin=math.degrees(MARGIN), scale=SCALE)
    module.num_classes = classes
    inputs = Inputs(device, n, dim, classes, transposed=True)
    parameters = [device.torch.nn.Parameter(w.detach()) for w in inputs.w]
    inputs.w = parameters

    def loss(x, w, labels):
        module.W = w
        return module(x, labels)

    return inputs.step(loss)


def cut_cross_entropy(device, n, dim, classes):
    needs_gpu(device, "cut-cross-entropy")
    module, torch = need("cut_cross_entropy"), device.torch
    functional = torch.nn.functional

    def loss(x, w, labels):
        return module.linear_cross_entropy(SCALE * functional.normalize(x), functional.normalize(w), labels)

    return Inputs(device, n, dim, classes, dtype=torch.bfloat16).step(loss)


def liger(device, n, dim, classes):
    needs_gpu(device, "Liger")
    module, torch = need("liger_kernel.transformers"), device.torch
    functional = torch.nn.functional
    fused = module.LigerFusedLinearCrossEntropyLoss()

    def loss(x, w, labels):
        result = fused(functional.normalize(w), SCALE * functional.normalize(x), labels)
        return result[0] if isinstance(result, tuple) else result

    return Inputs(device, n, dim, classes, dtype=torch.bfloat16).step(loss)


# Name, what makes its run, a note, and which of our rows computes the same.
ARCFACE = [
    ("PyTorch eager, f32", eager, "", "ours, f32"),
    ("PyTorch eager, TF32", eager_tf32, "", "ours, f16"),
    ("torch.compile, bf16 autocast", compiled, "", "ours, f16"),
    ("pytorch-metric-learning, f32", metric_learning, "", "ours, f32"),
    ("cut-cross-entropy, bf16", cut_cross_entropy, "normalised, without the margin", "ours, f16"),
    ("Liger fused linear cross entropy, bf16", liger, "normalised, without the margin", "ours, f16"),
]


# ---- Triplets and pooling


def triplets(device, n, dim):
    without_what_it_does_not_need()
    losses = need("pytorch_metric_learning.losses")
    device.torch.backends.cuda.matmul.allow_tf32 = False
    module = losses.TripletMarginLoss(margin=0.05)
    x = [device.normal(n, dim).requires_grad_() for _ in range(device.sets(8 * n * dim))]
    device.expected = 4 * n * dim
    labels = device.torch.arange(n, device=device.name) // 4

    def run(i):
        of = x[i % len(x)]
        device.torch.autograd.grad(module(of, labels), of)

    return run


def gem(device, compile_it):
    def pool(x, p):
        return x.clamp(min=1e-6).pow(p).mean(dim=(-2, -1)).pow(1 / p)

    return compile_for(device, pool) if compile_it else pool


def gem_pass(device, shape, p, compile_it, way):
    """Forward, or backward alone."""
    torch = device.torch
    pool = gem(device, compile_it)
    size = math.prod(shape) * 2
    x = [device.normal(*shape, dtype=torch.bfloat16).requires_grad_() for _ in range(device.sets(size))]
    power = torch.full((1,), p, device=device.name, requires_grad=True)
    upstream = device.normal(*shape[:2]).to(torch.bfloat16)

    def forward(i):
        with torch.no_grad():
            pool(x[i % len(x)], power)

    kept = [None] * len(x)

    def backward(i):
        at = i % len(x)
        if kept[at] is None:
            kept[at] = pool(x[at], power)
        torch.autograd.grad(kept[at], [x[at], power], upstream.to(kept[at].dtype), retain_graph=True)

    # Of the gradient's own memory nothing is extra.
    device.expected = size if way else 0
    return (forward, backward)[way]


# ---- Everything into one table


class Table:
    def __init__(self, rows, out=None):
        self.rows, self.out = rows, out

    def add(self, case, who, measured, note="", same=""):
        ms, extra = measured
        self.rows.append({"case": case, "who": who, "ms": ms, "extra": extra, "note": note, "same": same})
        print(f"{case}: {who}: {'-' if ms is None else f'{ms:.3f} ms'} {note}", flush=True)
        if self.out:
            with open(f"{self.out}.part", "w") as file:
                json.dump(self.rows, file, indent=1)
            os.replace(f"{self.out}.part", self.out)

    def attempt(self, device, case, who, make, note="", same=""):
        device.expected = 0
        try:
            if device.left() <= 0:
                raise Missing("not run: no time was left")
            self.add(case, who, device.measure(make()), note, same)
        except Missing as reason:
            self.add(case, who, (None, None), str(reason))
        except Exception as error:  # Out of memory, a kernel that does not compile: the others go on.
            self.add(case, who, (None, None), first_line(error))
        if not device.dry:
            device.torch.cuda.empty_cache()

    def counterpart(self, row):
        """The row of ours that computes the same: the faster of our own products and cuBLAS's."""
        names = (row.get("same"), f"{row.get('same')}, cublas")
        rows = [r for r in self.rows if r["case"] == row["case"] and r["who"].lower() in names and r["ms"]]
        return min(rows, key=lambda r: r["ms"], default=None) if row.get("same") else None

    def text(self):
        """Cases in the order of their first rows."""
        cases = list(dict.fromkeys(row["case"] for row in self.rows))
        lines = ["| case | whose | ms | extra MiB | over ours: time | memory | which of ours | |", "|---|---|---|---|---|---|---|---|"]
        for case in cases:
            for row in (row for row in self.rows if row["case"] == case):
                ms = "-" if row["ms"] is None else f"{row['ms']:.3f}"
                extra = "" if row["extra"] is None else f"{row['extra'] / MIB:.1f}"
                time, memory, name = "", "", ""
                if row["ms"] and (ours := self.counterpart(row)):
                    time, name = f"{row['ms'] / ours['ms']:.2f}", ours["who"]
                    if row["extra"] is not None and ours["extra"]:
                        memory = f"{row['extra'] / ours['extra']:.1f}"
                lines.append(f"| {case} | {row['who']} | {ms} | {extra} | {time} | {memory} | {name} | {row['note']} |")
        return "\n".join(lines)


def tiles(rows):
    """Classes of our tiles, forward and backward, as gpu_times found them."""
    for row in rows:
        if row["case"] == TILE_CASE and "cublas" in row["who"].lower() and row.get("tile"):
            return row["tile"]
    return TILES


def ceilings(device, table, dry):
    torch = device.torch
    size = MIB if dry else 1 << 30
    a, b = (device.normal(size // 4) for _ in range(2))
    ms, _ = device.measure(lambda i: b.copy_(a))
    table.add(f"copy of {size // MIB} MiB", "PyTorch", (ms, None), f"{2 * size / ms / 1e6:.0f} GB/s")
    del a, b
    forward, backward = (256, 128) if dry else tiles(table.rows)
    n, dim = (32, 16) if dry else (1024, 512)
    half = torch.bfloat16 if dry else torch.float16
    # The three products of a tile: logits, the embeddings' gradient, the centres'.
    for rows, shared, columns in [(n, dim, forward), (n, backward, dim), (backward, n, dim)]:
        a, b = device.normal(rows, shared).to(half), device.normal(shared, columns).to(half)
        out = torch.empty(rows, columns, dtype=half, device=device.name)
        ms, _ = device.measure(lambda i: torch.matmul(a, b, out=out))
        rate = f"{2 * rows * shared * columns / ms / 1e9:.1f} TFLOP/s"
        table.add(f"product {rows} x {shared} x {columns} f16", "cuBLAS, by PyTorch", (ms, None), rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="rows that gpu_times wrote")
    parser.add_argument("--out", help="all rows as JSON")
    parser.add_argument("--seconds", type=float, default=300.0, help="no case is begun after so many")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU")
    arguments = parser.parse_args()
    rows = json.load(open(arguments.ours)) if arguments.ours else []
    table = Table(rows, arguments.out)
    dry = arguments.dry_run

    def ended(*_):
        print(f"\nended before all were timed\n\n{table.text()}", flush=True)
        os._exit(1)

    # gpu-check.sh ends what takes too long: a table of what there is all the same.
    signal.signal(signal.SIGTERM, ended)
    try:
        import torch
    except ImportError as error:
        print(f"peers: no PyTorch here ({first_line(error)}): none is timed")
        print(table.text())
        return
    if not dry and not torch.cuda.is_available():
        print("peers: this PyTorch sees no GPU: none is timed")
        print(table.text())
        return
    where = "CPU, dry run" if dry else torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__} on {where}")
    device = Device(torch, dry, arguments.seconds)
    if arguments.only in "ceilings":
        ceilings(device, table, dry)
    shapes = [(33, 20, 200)] if dry else [
        (256, 128, 10_000), (1024, 512, 100_000), (4096, 512, 1_000_000), (1024, 512, 10_000_000)
    ]
    for n, dim, classes in shapes:
        case = f"ArcFace ({n}, {dim}, {classes})"
        if arguments.only in case:
            for who, make, note, same in ARCFACE:
                table.attempt(device, case, who, lambda: make(device, n, dim, classes), note, same)
    for n, dim in [(64, 16)] if dry else [(8192, 128)]:
        case = f"all triplets ({n}, {dim}), 4 a class"
        if arguments.only in case:
            table.attempt(device, case, "pytorch-metric-learning", lambda: triplets(device, n, dim), same="ours")
    for batch, channels, side in [(2, 8, 7)] if dry else [(1024, 2048, 14), (4096, 2048, 7)]:
        shape = (batch, channels, side, side)
        for p in (3.0, 2.5):
            for who, compile_it in [("PyTorch eager", False), ("torch.compile", True)]:
                for way in (0, 1):
                    name = ("forward", "backward")[way]
                    case = f"GeM {name} ({batch}, {channels}, {side * side}) bf16, p = {p:g}"
                    if arguments.only in case:
                        # Backward, theirs gives the gradient of p too.
                        same = ("ours", "ours, with the gradient of p")[way]
                        table.attempt(device, case, who, lambda: gem_pass(device, shape, p, compile_it, way), same=same)
    print()
    print(table.text())


if __name__ == "__main__":
    main()
