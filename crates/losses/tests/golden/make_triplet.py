"""Golden values of the triplet loss, its miners and the memory bank: pytorch-metric-learning 2.9.0 in float64.

Inputs are closed-form and rounded to float32, so that both sides start from the same numbers. Of each gradient the file
keeps its norm and its product with cos(i + 2 j): two numbers in place of a matrix. Run: python make_triplet.py
"""
import itertools
import json
import math

import torch
from pytorch_metric_learning import distances, losses, miners, reducers

torch.set_default_dtype(torch.float64)


def inputs(rows, dim, classes, phase=0.0):
    x = [[math.sin(1.7 * i + 0.9 * j * j + 0.3 * i * j + phase) + 0.8 * math.cos(2.1 * (i % classes) + 1.3 * j)
          for j in range(dim)] for i in range(rows)]
    return torch.tensor(x, dtype=torch.float32).double(), torch.arange(rows) % classes


def digest(value, gradient):
    rows, dim = gradient.shape
    pattern = torch.cos(torch.arange(rows)[:, None].double() + 2.0 * torch.arange(dim)[None].double())
    return {"value": float(value.detach()), "norm": float(gradient.norm()), "product": float((gradient * pattern).sum())}


DISTANCES = {
    "l2": lambda: distances.LpDistance(),
    "squared_l2": lambda: distances.LpDistance(power=2),
    "cosine": lambda: distances.CosineSimilarity(),
    "l2 plain": lambda: distances.LpDistance(normalize_embeddings=False),
    "squared_l2 plain": lambda: distances.LpDistance(normalize_embeddings=False, power=2),
}
REDUCERS = {"mean": reducers.MeanReducer, "mean_non_zero": reducers.AvgNonZeroReducer, "sum": reducers.SumReducer}


def miner(name):
    if name == "none":
        return None
    if name == "batch_hard":
        return miners.BatchHardMiner()
    return miners.TripletMarginMiner(margin=0.3, type_of_triplets=name)


def case(shape, distance, swap, smooth, reduction, mined, margin=0.2):
    x, labels = inputs(*shape)
    x.requires_grad_()
    loss = losses.TripletMarginLoss(margin=margin, swap=swap, smooth_loss=smooth, distance=DISTANCES[distance](),
                                    reducer=REDUCERS[reduction]())
    rule = miner(mined)
    value = loss(x, labels, rule(x, labels) if rule else None)
    value.backward()
    return {"shape": shape, "distance": distance, "swap": swap, "smooth": smooth, "reduction": reduction,
            "miner": mined, "margin": margin, **digest(value, x.grad)}


cases = [case([30, 6, 5], *options) for options in itertools.product(
    DISTANCES, [False, True], [False, True], REDUCERS, ["none", "all", "hard", "semihard", "easy", "batch_hard"])]
# More positives than are compared one by one, and more columns than one vector.
for shape, mined in itertools.product([[256, 16, 8], [300, 9, 2]], ["none", "semihard", "hard", "batch_hard"]):
    cases.append(case(shape, "l2", False, False, "mean_non_zero", mined, 0.1))

lists = {}
for name in ["all", "hard", "semihard", "easy", "batch_hard"]:
    x, labels = inputs(16, 6, 4)
    lists[name] = [part.tolist() for part in miner(name)(x, labels)]

memory = []
bank = losses.CrossBatchMemory(losses.TripletMarginLoss(margin=0.2), embedding_size=6, memory_size=20)
for step in range(4):
    x, labels = inputs(12, 6, 3, 0.7 * step)
    x.requires_grad_()
    value = bank(x, labels)
    value.backward()
    memory.append(digest(value, x.grad))

x, labels = inputs(30, 6, 5)
x.requires_grad_()
weighted = losses.TripletMarginLoss(
    margin=0.2, reducer=reducers.ClassWeightedReducer(torch.tensor([1.0, 0.5, 2.0, 0.0, 1.5])))
value = weighted(x, labels)
value.backward()

with open("triplet.json", "w") as file:
    json.dump({"cases": cases, "miners": lists, "memory": memory, "class_weights": digest(value, x.grad)}, file)
print(len(cases), "cases")
