"""Triplet margin losses: ours, pytorch-metric-learning, and the bare products."""

import numpy

DIM = 128
# The bare products' rows at once: all distances of the largest case would be 4 GiB.
BLOCK = 4096
# Gradients are compared relative to their largest entry. cdist takes distances from a product of the uncentred rows:
# its error moves triplets over the margin's edge, and each moves a gradient by one triplet's share.
TOLERANCES = {"value": 1e-4, "dx": 2e-3}


def cases():
    for what, batch, per_class in [
        ("all", 1024, 16),
        ("swap", 1024, 16),
        ("smooth", 1024, 16),
        ("all", 4096, 16),
        ("semihard", 4096, 16),
        ("hardest", 4096, 16),
        ("all", 32768, 32),
    ]:
        # The lists of 250 million triplets and more do not fit a usual machine.
        listed = batch == 1024 or what == "hardest"
        # A block of anchors needs its distances, its own gradient and its part of the others' gradients. Where one
        # block holds the whole batch the last two are one product; the hardest triplets' gradients need none.
        products = 1 if what == "hardest" else 2 if batch <= BLOCK else 3
        yield {
            "name": f"{what}-b{batch}-k{per_class}-d{DIM}",
            "what": what, "batch": batch, "per_class": per_class, "products": products,
            "peers": ["ours", "products-mkl"] + (["pml"] if listed else []),
            "tolerances": {"pml": TOLERANCES} if listed else {},
            # A run of the largest takes half a minute.
            "rounds": 3 if batch > BLOCK else None,
        }


def write_inputs(case, folder):
    """Embeddings around their class's centre, as in the middle of a training."""
    rng = numpy.random.default_rng(17)
    classes = case["batch"] // case["per_class"]
    labels = numpy.arange(case["batch"]) % classes
    centres = rng.uniform(-1, 1, (classes, DIM))
    x = centres[labels] + 1.5 * rng.uniform(-1, 1, (case["batch"], DIM))
    numpy.save(folder / "x.npy", x.astype(numpy.float32))
    numpy.save(folder / "labels.npy", labels)


def pml(case, folder):
    import torch
    from pytorch_metric_learning import losses, miners

    x, labels = (torch.from_numpy(numpy.load(folder / f"{name}.npy")) for name in ("x", "labels"))
    x.requires_grad_()
    loss = losses.TripletMarginLoss(swap=case["what"] == "swap", smooth_loss=case["what"] == "smooth")
    miner = miners.BatchHardMiner() if case["what"] == "hardest" else None
    state = {}

    def run():
        x.grad = None
        state["value"] = loss(x, labels, miner(x, labels) if miner else None)
        state["value"].backward()

    return run, lambda: {"value": state["value"].item(), "dx": x.grad.numpy()}


def products(case, folder):
    """Block by block the distances' product and those of their coefficients with the embeddings, by PyTorch's MKL."""
    import torch

    x = torch.from_numpy(numpy.load(folder / "x.npy"))
    rows = min(BLOCK, len(x))
    gram, dx = torch.empty(rows, len(x)), torch.zeros_like(x)

    def run():
        for start in range(0, len(x), rows):
            block = slice(start, start + rows)
            torch.mm(x[block], x.t(), out=gram)
            if case["products"] >= 2:
                torch.mm(gram, x, out=dx[block])
            if case["products"] == 3:
                dx.addmm_(gram.t(), x[block])

    return run, lambda: {}


PEERS = {"pml": pml, "products-mkl": products}
