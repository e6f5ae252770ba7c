"""One training pass, its gradients and one evaluation pass of a small convolutional network, by PyTorch.

Run with PyTorch 2.x: python make_cnn.py > cnn.json. Computed in double precision from single-precision numbers, so the
file holds exact references.
"""

import json
import sys

import torch
from torch import nn


class GeM(nn.Module):
    """Radenovic et al. 2019, equation 3, with values clamped at eps."""

    def __init__(self, p=3.0, eps=1e-6):
        super().__init__()
        self.p, self.eps = nn.Parameter(torch.tensor([p])), eps

    def forward(self, x):
        return x.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)


torch.manual_seed(11)
net = nn.Sequential(
    nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
    GeM(), nn.Linear(4, 3),
)
with torch.no_grad():
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
x = torch.rand(4, 2, 7, 6)
upstream = torch.randn(4, 3)

names = {
    "0.weight": "0.conv.weight", "1.weight": "1.batch_norm.gamma", "1.bias": "1.batch_norm.beta",
    "4.weight": "4.conv.weight", "5.weight": "5.batch_norm.gamma", "5.bias": "5.batch_norm.beta",
    "7.p": "7.pool.p", "8.weight": "8.linear.weight", "8.bias": "8.linear.bias",
}
buffers = {
    "1.running_mean": "1.batch_norm.running_mean", "1.running_var": "1.batch_norm.running_variance",
    "5.running_mean": "5.batch_norm.running_mean", "5.running_var": "5.batch_norm.running_variance",
}


def tensor(t):
    return {"shape": list(t.shape), "values": [float(f"{v:.9g}") for v in t.detach().flatten().tolist()]}


start = {names[k]: tensor(v) for k, v in net.named_parameters()}
net, x, upstream = net.double(), x.double(), upstream.double()
output = net(x)
(output * upstream).sum().backward()
result = {
    "torch": torch.__version__,
    "input": tensor(x),
    "upstream": tensor(upstream),
    "parameters": start,
    "output": tensor(output),
    "gradients": {names[k]: tensor(v.grad) for k, v in net.named_parameters()},
    "buffers": {buffers[k]: tensor(v) for k, v in net.named_buffers() if k in buffers},
}
net.eval()
result["evaluation"] = tensor(net(x))
json.dump(result, sys.stdout, separators=(",", ":"))
print()
