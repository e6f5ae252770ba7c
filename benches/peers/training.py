"""Training steps of the convolutional encoder, in ours, PyTorch, candle and burn: 3x3 convolutions to 32, 64 and 128
channels, each with batch norm and ReLU, 2x2 max pooling after the first two, GeM, a linear layer to 64; CosFace over
10 classes; Adam on both. One run is `batches` batches of images of 28 by 28 from the same start, gathered from bytes."""

import numpy

MARGIN, SCALE, EPS = 0.35, 64.0, 1e-6
CHANNELS = [32, 64, 128]


def cases():
    # Adam's first steps are about the sign of each gradient, so that rounding grows from step to step.
    close = {"first": 2e-6, "losses": 2e-2}
    yield {
        "name": "cnn-28x28-b128",
        "batch": 128, "batches": 10, "classes": 10, "dim": 64, "rate": 1e-3,
        "peers": ["ours", "torch", "torch-nhwc", "candle", "burn"],
        "tolerances": {peer: close for peer in ("torch", "torch-nhwc", "candle", "burn")},
    }


def write_inputs(case, folder):
    """A blurred prototype a class with noise on it, so that there is something to learn; PyTorch's default weights."""
    rng = numpy.random.default_rng(31)
    items, classes = case["batch"] * case["batches"], case["classes"]
    coarse = rng.uniform(0, 1, (classes, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    labels = rng.integers(0, classes, items)
    images = coarse[labels] + rng.normal(0, 0.25, (items, 28, 28))
    numpy.save(folder / "images.npy", (images.clip(0, 1) * 255).astype(numpy.uint8))
    numpy.save(folder / "labels.npy", labels.astype(numpy.int64))
    fan_in = 1
    for index, out in enumerate(CHANNELS):
        bound = 1 / numpy.sqrt(fan_in * 9)
        weight = rng.uniform(-bound, bound, (out, fan_in, 3, 3))
        numpy.save(folder / f"conv{index}.npy", weight.astype(numpy.float32))
        fan_in = out
    bound = 1 / numpy.sqrt(fan_in)
    for name, shape in {"linear_weight": (case["dim"], fan_in), "linear_bias": (case["dim"],)}.items():
        numpy.save(folder / f"{name}.npy", rng.uniform(-bound, bound, shape).astype(numpy.float32))
    numpy.save(folder / "centres.npy", rng.standard_normal((classes, case["dim"]), dtype=numpy.float32))


def training(case, folder, channels_last):
    import torch
    from torch import nn
    from torch.nn import functional

    def load(name):
        return torch.from_numpy(numpy.load(folder / f"{name}.npy"))

    class GeM(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.full((1,), 3.0))

        def forward(self, x):
            return x.clamp(min=EPS).pow(self.p).mean((2, 3)).pow(1 / self.p)

    def network():
        layers, fan_in = [], 1
        for index, out in enumerate(CHANNELS):
            convolution = nn.Conv2d(fan_in, out, 3, padding=1, bias=False)
            convolution.weight = nn.Parameter(load(f"conv{index}"))
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if index < 2 else []
            fan_in = out
        linear = nn.Linear(fan_in, case["dim"])
        linear.weight, linear.bias = nn.Parameter(load("linear_weight")), nn.Parameter(load("linear_bias"))
        model = nn.Sequential(*layers, GeM(), linear)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    images, labels = load("images")[:, None], load("labels")
    batch, state = case["batch"], {}

    def run():
        model, centres = network(), nn.Parameter(load("centres"))
        optimizer = torch.optim.Adam([*model.parameters(), centres], lr=case["rate"])
        losses = []
        for start in range(0, len(labels), batch):
            x, y = images[start:start + batch].float() / 255, labels[start:start + batch]
            if channels_last:
                x = x.to(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            cosines = functional.normalize(model(x)) @ functional.normalize(centres).T
            logits = SCALE * (cosines - MARGIN * functional.one_hot(y, case["classes"]))
            loss = functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        state["losses"] = numpy.array(losses)

    return run, lambda: {"first": state["losses"][0], "losses": state["losses"]}


PEERS = {
    "torch": lambda case, folder: training(case, folder, False),
    "torch-nhwc": lambda case, folder: training(case, folder, True),
}
