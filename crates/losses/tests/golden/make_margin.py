"""margin.json: values and gradients of the margin losses by pytorch-metric-learning 2.9.0 in float64, with weights on
samples and classes, and the triplets that its miners keep. Run in this folder: python make_margin.py

Inputs are closed forms, rounded to f32: x[i][j] = sin(1.7 i + 0.9 j^2 + 0.3 i j + shift) * stretch^(i mod 3), and the
centres cos(0.8 c + 1.3 j + 0.2 c j), so that norms are far from 1 and normalisation has a gradient.
"""

import itertools
import json

import torch
from pytorch_metric_learning import losses, miners, reducers

torch.set_default_dtype(torch.float64)
BATCH, DIM, CLASSES = 12, 5, 4


def inputs(batch, dim, classes, shift=0.0, stretch=1.0):
    i, j = torch.arange(batch)[:, None], torch.arange(dim)[None]
    x = torch.sin(1.7 * i + 0.9 * j * j + 0.3 * i * j + shift) * stretch ** (i % 3)
    return x.float().double(), torch.arange(batch) % classes


def centres(rows, dim):
    c, j = torch.arange(rows)[:, None], torch.arange(dim)[None]
    return torch.cos(0.8 * c + 1.3 * j + 0.2 * c * j).float().double()


SAMPLE_WEIGHTS = [0.25 * (i % 5) for i in range(BATCH)]
CLASS_WEIGHTS = [1.0, 0.5, 2.0, 0.0]


def case(kind, margin, scale, sub_centers, weighted):
    x, labels = inputs(BATCH, DIM, CLASSES, stretch=3.0)
    w = centres(CLASSES * sub_centers, DIM)
    options = {"num_classes": CLASSES, "embedding_size": DIM, "margin": margin, "scale": scale}
    if kind == "SubCenterArcFaceLoss":
        options["sub_centers"] = sub_centers
    loss = getattr(losses, kind)(reducer=reducers.DoNothingReducer(), **options)
    loss.W.data = w.t().contiguous()
    x.requires_grad_()
    rows = loss(x, labels)["loss"]["losses"]
    weights = torch.tensor(SAMPLE_WEIGHTS) * torch.tensor(CLASS_WEIGHTS)[labels] if weighted else torch.ones(BATCH)
    value = (rows * weights).mean()
    value.backward()
    return {"loss": kind, "margin": margin, "scale": scale, "sub_centers": sub_centers, "weighted": weighted,
            "value": value.item(), "rows": rows.tolist(), "dx": x.grad.flatten().tolist(),
            "dw": loss.W.grad.t().flatten().tolist()}


cases = [case(*options) for options in [
    *itertools.product(["ArcFaceLoss"], [0.0, 28.6, 60.0, 120.0], [1.0, 64.0], [1], [False]),
    *itertools.product(["CosFaceLoss"], [0.0, 0.35, 1.0], [1.0, 64.0], [1], [False]),
    *itertools.product(["SphereFaceLoss"], [1, 2, 3, 4], [1.0, 8.0], [1], [False]),
    *itertools.product(["SubCenterArcFaceLoss"], [0.0, 28.6], [8.0, 64.0], [1, 3], [False]),
    ("ArcFaceLoss", 28.6, 16.0, 1, True), ("CosFaceLoss", 0.35, 16.0, 1, True),
    ("SphereFaceLoss", 4, 1.0, 1, True), ("SubCenterArcFaceLoss", 28.6, 16.0, 2, True),
]]

# The default margin and another one stand in triplet.json and pml290.json.
mined = []
for kind, margin in [*itertools.product(["easy", "hard", "semihard", "all"], [0.05, 0.5]), ("batch_hard", 0.0)]:
    x, labels = inputs(BATCH, DIM, CLASSES, shift=0.8)
    miner = miners.BatchHardMiner() if kind == "batch_hard" else miners.TripletMarginMiner(margin, kind)
    mined.append({"kind": kind, "margin": margin, "shift": 0.8, "lists": [part.tolist() for part in miner(x, labels)]})


def short(value):
    """Nine digits carry an f32."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    return [short(item) for item in value] if isinstance(value, list) else value


golden = {"sample_weights": SAMPLE_WEIGHTS, "class_weights": CLASS_WEIGHTS, "cases": cases, "mined": mined}
with open("margin.json", "w") as file:
    json.dump(short(golden), file)
    file.write("\n")
print(len(cases), "cases", [len(m["lists"][0]) for m in mined])
