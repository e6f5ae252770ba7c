"""One value and its gradients for each operation, by PyTorch in float64 on float32 inputs: make_ops.py > ops.json."""

import json
import sys

import torch
import torch.nn.functional as F

generator = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(shape, generator=generator).float()


def flat(t):
    return {"shape": list(t.shape), "data": [float(f"{v:.9g}") for v in t.detach().double().flatten().tolist()]}


cases = {}


def case(name, inputs, op):
    leaves = [x.double().requires_grad_() for x in inputs]
    y = op(*leaves)
    upstream = rand(*y.shape)
    y.backward(upstream.double())
    cases[name] = {
        "inputs": [flat(x) for x in inputs],
        "upstream": flat(upstream),
        "value": flat(y),
        "gradients": [flat(x.grad) for x in leaves],
    }


a, b = rand(3, 4), rand(3, 4)
case("add", [a, b], torch.add)
case("sub", [a, b], torch.sub)
case("mul", [a, b], torch.mul)
case("scale", [a], lambda x: 0.7 * x)
case("relu", [a], F.relu)
case("gelu", [a], F.gelu)
case("dropout_all_kept", [a], lambda x: x / (1 - 0.4))
case("reshape", [a], lambda x: x.reshape(2, 6))
case("concatenate", [a, rand(3, 2)], lambda x, y: torch.cat([x, y], 1))
case("sum", [a], torch.sum)
case("mean", [a], torch.mean)
case("matmul", [a, rand(4, 5)], torch.matmul)
case("linear", [a, rand(5, 4), rand(5)], F.linear)
case("bias", [a, rand(4)], torch.add)
case("embedding", [rand(6, 3)], lambda t: F.embedding(torch.tensor([4, 1, 4, 0]), t))
case("normalize_rows", [a], lambda x: F.normalize(x, eps=1e-12))
x = rand(2, 4, 5, 6)
case("conv2d", [x, rand(3, 4, 3, 3), rand(3)], F.conv2d)
case("conv2d_strided", [x, rand(3, 4, 3, 2), rand(3)], lambda *v: F.conv2d(*v, stride=(2, 1), padding=(1, 0)))
case("conv2d_dilated", [x, rand(3, 4, 3, 2), rand(3)], lambda *v: F.conv2d(*v, padding=(2, 1), dilation=(2, 2)))
case("conv2d_grouped", [x, rand(4, 2, 3, 3), rand(4)], lambda *v: F.conv2d(*v, padding=(1, 2), groups=2))
case("max_pool2d", [x], lambda v: F.max_pool2d(v, 2))
case("max_pool2d_overlapping", [x], lambda v: F.max_pool2d(v, (3, 2), stride=(2, 1), padding=(1, 1)))
case("avg_pool2d", [x], lambda v: F.avg_pool2d(v, 2))
gamma, beta, mean, variance = rand(4), rand(4), rand(4), rand(4).abs() + 0.5
case("batch_norm_1d", [a, gamma, beta], lambda v, g, c: F.batch_norm(v, None, None, g, c, True, eps=1e-5))
case("batch_norm_2d", [x, gamma, beta], lambda v, g, c: F.batch_norm(v, None, None, g, c, True, eps=1e-5))
case(
    "batch_norm_2d_running",
    [x, gamma, beta],
    lambda v, g, c: F.batch_norm(v, mean.double(), variance.double(), g, c, False, eps=1e-5),
)
cases["batch_norm_2d_running"]["running"] = [flat(mean), flat(variance)]
# What PyTorch's running statistics move towards: momentum 1 gives them whole.
running = [torch.zeros(4).double(), torch.ones(4).double()]
F.batch_norm(x.double(), *running, training=True, momentum=1.0)
cases["batch_norm_2d"]["statistics"] = [flat(r) for r in running]
case("layer_norm", [a, gamma, beta], lambda v, g, c: F.layer_norm(v, (4,), g, c, 1e-5))

json.dump({"torch": torch.__version__, "cases": cases}, sys.stdout, separators=(",", ":"))
print()
