"""Golden trajectories of PyTorch's optimizers (float32, CPU), for tests/optim.rs.

    python make_optim.py > optim.json        (torch 2.15)

Parameter i of 6 starts at (1.5 + 0.5 i)(-1)^i; its gradient at step t = 1..100 is
sin(0.37 t + 1.3 i) (0.2 + 0.3 i) + 0.05 cos(0.11 t i), rounded from float64 to float32 (no dependence on the
parameter). Parameter 5's gradient is 0 at odd steps.

SparseAdam's parameter is a table of 6 rows of 1 column; the gradient at step t has the rows i with (t + i) mod 3 != 0.
LBFGS minimises at step t, by up to max_iter iterations, the sum over i of a d^2 / 2 + 0.01 d^4 with
a = 0.5 + 0.25 i and d = p - start(i) - sin(0.37 t + 1.3 i), in float64 from the parameter's float32 value.
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
    ("RMSprop", {"momentum": 0.5}),
    ("RMSprop", {"centered": True, "alpha": 0.95}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.01}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.8, "eps": 1e-4, "weight_decay": 0.02}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.05, "initial_accumulator_value": 0.1, "eps": 1e-6, "weight_decay": 0.02}),
    ("SparseAdam", {}),
    ("SparseAdam", {"betas": [0.8, 0.95], "eps": 1e-6}),
    ("Adamax", {}),
    ("Adamax", {"betas": [0.8, 0.95], "eps": 1e-4, "weight_decay": 0.02}),
    ("ASGD", {}),
    ("ASGD", {"lambd": 0.01, "alpha": 0.6, "t0": 20.0, "weight_decay": 0.02}),
    ("NAdam", {}),
    ("NAdam", {"betas": [0.8, 0.95], "momentum_decay": 0.02, "weight_decay": 0.02}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.02}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Rprop", {}),
    ("Rprop", {"etas": [0.4, 1.3], "step_sizes": [1e-4, 0.05]}),
    ("LBFGS", {"max_iter": 3}),
    ("LBFGS", {"max_iter": 3, "history_size": 2, "tolerance_grad": 1e-5}),
    ("LBFGS", {"max_iter": 3, "history_size": 4, "line_search_fn": "strong_wolfe"}),
]

RATES = {"SGD": 0.02, "Adadelta": 0.5, "ASGD": 0.02, "LBFGS": 0.8}


def start(i):
    return (1.5 + 0.5 * i) * (-1) ** i


def gradient(t, i):
    if i == 5 and t % 2 == 1:
        return 0.0
    return math.sin(0.37 * t + 1.3 * i) * (0.2 + 0.3 * i) + 0.05 * math.cos(0.11 * t * i)


def curve(p, t):
    i = torch.arange(6, dtype=torch.float64)
    d = p.double() - torch.tensor([start(k) for k in range(6)], dtype=torch.float64) - torch.sin(0.37 * t + 1.3 * i)
    return ((0.5 + 0.25 * i) * d**2 / 2 + 0.01 * d**4).sum()


def take_step(name, optimizer, p, t):
    gradients = torch.tensor([gradient(t, i) for i in range(6)], dtype=torch.float64).float()
    if name == "LBFGS":

        def closure():
            optimizer.zero_grad()
            loss = curve(p, t)
            loss.backward()
            return loss

        optimizer.step(closure)
        return
    if name == "SparseAdam":
        rows = [i for i in range(6) if (t + i) % 3 != 0]
        p.grad = torch.sparse_coo_tensor([rows], gradients[rows].unsqueeze(1), (6, 1), check_invariants=True)
    else:
        p.grad = gradients
    optimizer.step()


def trajectory(name, options, lr):
    values = torch.tensor([start(i) for i in range(6)], dtype=torch.float32)
    p = torch.nn.Parameter(values.unsqueeze(1) if name == "SparseAdam" else values)
    optimizer = getattr(torch.optim, name)([p], lr=lr, **options)
    values = {}
    for t in range(1, STEPS + 1):
        take_step(name, optimizer, p, t)
        if t in CHECKPOINTS:
            values[t] = [float(f"{v:.9g}") for v in p.flatten().tolist()]
    return values


cases = []
for name, options in CASES:
    lr = RATES.get(name, 0.005)
    cases.append({"optimizer": name, "options": {"learning_rate": lr, **options}, "values": trajectory(name, options, lr)})

print('{"torch": "%s", "cases": [' % torch.__version__)
print(",\n".join(json.dumps(case) for case in cases))
print("]}")
