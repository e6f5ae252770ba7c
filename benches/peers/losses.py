"""Margin-softmax losses: ours, pytorch-metric-learning, a lean PyTorch version, and the bare products."""

import math

import numpy

# Values are means over the batch. Gradients are compared relative to their largest entry: f32 logits of scale 64
# carry 4e-6, and acos, which both PyTorch versions take, loses more.
TOLERANCES = {"value": 2e-5, "dx": 2e-4, "dw": 2e-4}


def cases():
    products = ["products-gemm", "products-faer", "products-mkl"]
    for loss, batch, dim, classes, kept, blocks in [
        ("arcface", 256, 512, 100_000, 3, 1),
        ("cosface", 256, 512, 100_000, 3, 1),
        ("arcface", 128, 128, 10_000, 3, 1),
        ("cosface", 128, 128, 10_000, 3, 1),
        ("arcface", 128, 256, 1_000_000, 4, 10),
    ]:
        yield {
            "name": f"{loss}-b{batch}-d{dim}-c{classes}" + ("-recompute" if kept == 4 else ""),
            "loss": loss, "batch": batch, "dim": dim, "classes": classes, "products": kept, "product_blocks": blocks,
            # Of the recomputing case only the reference implementation runs beside ours: memory.
            "peers": ["ours", *products, "pml"] + (["lean"] if kept == 3 else []),
            "tolerances": {"pml": TOLERANCES, **({"lean": TOLERANCES} if kept == 3 else {})},
        }


def write_inputs(case, folder):
    """Embeddings some way towards their centre, as in the middle of a training."""
    rng = numpy.random.default_rng(17)
    w = rng.standard_normal((case["classes"], case["dim"]), dtype=numpy.float32)
    labels = rng.integers(0, case["classes"], case["batch"])
    x = w[labels] + 1.5 * rng.standard_normal((case["batch"], case["dim"]), dtype=numpy.float32)
    for name, value in {"x": x, "w": w, "labels": labels}.items():
        numpy.save(folder / f"{name}.npy", value)


def load(folder):
    import torch

    return [torch.from_numpy(numpy.load(folder / f"{name}.npy")) for name in ("x", "w", "labels")]


def pml(case, folder):
    from pytorch_metric_learning import losses

    x, w, labels = load(folder)
    kind = {"arcface": losses.ArcFaceLoss, "cosface": losses.CosFaceLoss}[case["loss"]]
    loss = kind(case["classes"], case["dim"])
    loss.W.data = w.t().contiguous()
    del w
    x.requires_grad_()
    state = {}

    def run():
        x.grad = loss.W.grad = None
        state["value"] = loss(x, labels)
        state["value"].backward()

    return run, lambda: {"value": state["value"].item(), "dx": x.grad.numpy(), "dw": loss.W.grad.t().numpy()}


def lean(case, folder):
    """One matrix product, the margin on the gathered target alone, one cross entropy."""
    import torch
    import torch.nn.functional as F

    x, w, labels = load(folder)
    x.requires_grad_()
    w.requires_grad_()
    state = {}

    def run():
        x.grad = w.grad = None
        cosines = F.linear(F.normalize(x), F.normalize(w))
        target = cosines.gather(1, labels[:, None])
        if case["loss"] == "arcface":
            margin = math.radians(28.6)
            theta = target.clamp(-1, 1).acos()
            edge = theta > math.pi - margin
            target = torch.where(edge, target - margin * math.sin(margin), (theta + margin).cos())
        else:
            target = target - 0.35
        logits = 64 * cosines.scatter(1, labels[:, None], target)
        state["value"] = F.cross_entropy(logits, labels)
        state["value"].backward()

    return run, lambda: {"value": state["value"].item(), "dx": x.grad.numpy(), "dw": w.grad.numpy()}


def products(case, _folder):
    """The bare products by PyTorch's MKL."""
    import torch

    blocks, batch, dim = case["product_blocks"], case["batch"], case["dim"]
    classes = case["classes"] // blocks
    x, w, z = (torch.randn(shape) for shape in [(batch, dim), (classes, dim), (batch, classes)])
    dx, dw = torch.empty_like(x), torch.empty_like(w)

    def run():
        for _ in range(blocks):
            for _ in range(case["products"] - 2):
                torch.mm(x, w.t(), out=z)
            torch.mm(z.t(), x, out=dw)
            torch.mm(z, w, out=dx)

    return run, lambda: {}


PEERS = {"pml": pml, "lean": lean, "products-mkl": products}
