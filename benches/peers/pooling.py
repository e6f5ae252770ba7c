"""GeM, forward and backward with a learnable power: ours, the PyTorch expression, and the bytes alone."""

import numpy

EPS = 1e-6


def cases():
    # As the power learns it is whole in the first step alone.
    for power in (3.0, 2.9, 6.5):
        yield {
            "name": f"gem-128x512x14x14-p{power}",
            "batch": 128, "channels": 512, "side": 14, "power": power,
            "peers": ["ours", "bytes", "torch"],
            # The gradient of the power is a sum over 12.8 million values, in f32 there.
            "tolerances": {"torch": {"y": 2e-6, "dx": 5e-6, "dp": 2e-5}},
        }


def write_inputs(case, folder):
    """Feature maps after a ReLU."""
    rng = numpy.random.default_rng(23)
    shape = (case["batch"], case["channels"], case["side"], case["side"])
    x = numpy.maximum(rng.standard_normal(shape, dtype=numpy.float32) + 0.3, 0)
    dy = rng.standard_normal(shape[:2], dtype=numpy.float32)
    for name, value in {"x": x, "dy": dy, "p": numpy.array([case["power"]], numpy.float32)}.items():
        numpy.save(folder / f"{name}.npy", value)


def load(folder):
    import torch

    return [torch.from_numpy(numpy.load(folder / f"{name}.npy")) for name in ("x", "dy", "p")]


def expression(_case, folder):
    x, dy, p = load(folder)
    x.requires_grad_()
    p.requires_grad_()
    state = {}

    def run():
        x.grad = p.grad = None
        y = x.clamp(min=EPS).pow(p).mean((2, 3)).pow(1 / p)
        y.backward(dy)
        state["y"] = y.detach()

    return run, lambda: {"y": state["y"].numpy(), "dx": x.grad.numpy(), "dp": p.grad.numpy()}


def traffic(_case, folder):
    """What no implementation avoids: the forward pass reads x, the backward pass reads x and writes dx."""
    import torch

    x, _, _ = load(folder)
    dx = torch.empty_like(x)

    def run():
        x.sum()
        dx.copy_(x)

    return run, lambda: {}


PEERS = {"torch": expression, "bytes": traffic}
