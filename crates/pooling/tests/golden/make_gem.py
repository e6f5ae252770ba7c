"""Makes gem.json: GeM values and gradients by PyTorch in float64, for every sign policy, one power or one for each
channel, feature maps and masked tokens. Run: python make_gem.py (needs torch and numpy)."""
import json
import pathlib

import numpy as np
import torch

EPS = 1e-6
STRAIGHT = 1e-3  # below this share of the largest power the signed root is a straight line


def gem(rows, p, sign):
    """rows: list of 1-d tensors (the values of one map or of one channel's tokens); p: one power for each row."""
    out = []
    for x, p in zip(rows, p):
        if x.numel() == 0:
            out.append(torch.zeros((), dtype=torch.float64))
        elif sign == "clamp":
            out.append(x.clamp(min=EPS).pow(p).mean().pow(1 / p))
        elif sign == "shift":
            low = x.min()
            out.append((x - low + EPS).pow(p).mean().pow(1 / p) + low - EPS)
        else:
            top = x.abs().max()
            s = (x.sign() * (x.abs() / top).pow(p)).mean()
            root = s.sign() * s.abs().pow(1 / p) if s.abs() >= STRAIGHT else s * STRAIGHT ** (1 / p - 1)
            out.append(top * root)
    return torch.stack(out)


def numbers(t):
    return [float(f"{v:.12g}") for v in t.detach().reshape(-1).tolist()]


def f32(a):
    return np.asarray(a, dtype=np.float32).astype(np.float64)


rng = np.random.default_rng(5)
B, C, L = 2, 3, 7
mask = np.array([[1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1, 0]], dtype=bool)
layouts = {
    "maps": f32(rng.normal(size=(B, C, L))),
    "tokens": f32(rng.normal(size=(B, L, C))),
}
# One row whose signed powers nearly cancel at p = 3, so that the straight part of the root is covered.
layouts["maps"][1, 2] = f32([1.0, -0.999999, 0.03, 0.02, -0.01, 0.02, 0.04])
dy = f32(rng.normal(size=(B, C)))
cases = []
for layout, data in layouts.items():
    for sign in ["clamp", "shift", "signed"]:
        for power in [[0.5], [1.0], [2.4], [3.0], [1.5, 3.0, 4.7]]:
            x = torch.tensor(data, requires_grad=True)
            p = torch.tensor(f32(power), requires_grad=True)
            if layout == "maps":
                rows = [x[b, c] for b in range(B) for c in range(C)]
            else:
                rows = [x[b, torch.tensor(mask[b]), c] for b in range(B) for c in range(C)]
            y = gem(rows, [p[c % len(power)] for _ in range(B) for c in range(C)], sign)
            (y * torch.tensor(dy).reshape(-1)).sum().backward()
            cases.append({"layout": layout, "sign": sign, "p": numbers(p), "y": numbers(y), "dx": numbers(x.grad), "dp": numbers(p.grad)})
out = {
    "eps": EPS,
    "shape": [B, C, L],
    "maps": numbers(torch.tensor(layouts["maps"])),
    "tokens": numbers(torch.tensor(layouts["tokens"])),
    "mask": mask.reshape(-1).tolist(),
    "dy": numbers(torch.tensor(dy)),
    "cases": cases,
}
text = json.dumps(out).replace('{"layout"', '\n{"layout"')
pathlib.Path(__file__).with_name("gem.json").write_text(text + "\n")
