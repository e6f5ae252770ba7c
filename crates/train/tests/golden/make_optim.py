"""Golden trajectories of PyTorch's optimizers (float32, CPU), for tests/optim.rs.

    python make_optim.py > optim.json        (torch 2.15)

Parameter i of 6 starts at (1.5 + 0.5 i)(-1)^i; its gradient at step t = 1..100 is
sin(0.37 t + 1.3 i) (0.2 + 0.3 i) + 0.05 cos(0.11 t i), rounded from float64 to float32 (no dependence on the
parameter). Parameter 5's gradient is 0 at odd steps.
"""

import json
import math

import torch

STEPS = 100
CHECKPOINTS = (1, 2, 3, 10, 50, 100)

CASES = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.05}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {}),
    ("Adam", {"betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.02}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.2, "amsgrad": True, "betas": [0.9, 0.99]}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-5, "weight_decay": 0.02}),
    ("RMSprop", {"momentum": 0.7}),
    ("RMSprop", {"centered": True, "alpha": 0.95}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.01}),
]


def start(i):
    return (1.5 + 0.5 * i) * (-1) ** i


def gradient(t, i):
    if i == 5 and t % 2 == 1:
        return 0.0
    return math.sin(0.37 * t + 1.3 * i) * (0.2 + 0.3 * i) + 0.05 * math.cos(0.11 * t * i)


def trajectory(name, options, lr):
    p = torch.nn.Parameter(torch.tensor([start(i) for i in range(6)], dtype=torch.float32))
    optimizer = getattr(torch.optim, name)([p], lr=lr, **options)
    values = {}
    for t in range(1, STEPS + 1):
        p.grad = torch.tensor([gradient(t, i) for i in range(6)], dtype=torch.float64).float()
        optimizer.step()
        if t in CHECKPOINTS:
            values[t] = [float(f"{v:.9g}") for v in p.tolist()]
    return values


cases = []
for name, options in CASES:
    lr = 0.02 if name == "SGD" else 0.005
    cases.append({"optimizer": name, "options": {"learning_rate": lr, **options}, "values": trajectory(name, options, lr)})

print('{"torch": "%s", "cases": [' % torch.__version__)
print(",\n".join(json.dumps(case) for case in cases))
print("]}")
