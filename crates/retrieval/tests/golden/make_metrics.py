"""Golden retrieval metrics for tests/retrieval: pytorch-metric-learning's AccuracyCalculator and
scikit-learn's ndcg_score on the full ranking in float64 with ties by lowest index, and ranx on the values at k.

    python make_metrics.py > metrics.json     (pytorch-metric-learning 2.9.0, scikit-learn 1.9.1, ranx 0.3.21)

Data are closed forms: "wave" row i, column j is sin(0.9 i + 1.7 j + 0.3 i j), "grid" is (i (j + 2) + j) mod 5 - 2
(whole numbers, so that products and squared distances are exact and ties abound); `shift` is added to i.
"""

import json

import numpy as np
import pytorch_metric_learning
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from ranx import Qrels, Run, evaluate
from sklearn.metrics import ndcg_score

METRICS = {
    "precision_at_1": "precision_at_1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map_at_r",
    "mean_average_precision": "map",
    "mean_reciprocal_rank": "mrr",
}

# See `labels` for the queries without a match.
CASES = [
    {"name": "among themselves", "metric": "cosine", "data": "wave", "dim": 5, "queries": 31, "gallery": None},
    {"name": "a gallery", "metric": "cosine", "data": "wave", "dim": 4, "queries": 13, "gallery": 29},
    {"name": "ties among themselves", "metric": "dot", "data": "grid", "dim": 3, "queries": 40, "gallery": None},
    {"name": "ties in a gallery", "metric": "l2", "data": "grid", "dim": 2, "queries": 17, "gallery": 50},
]


def vectors(kind, rows, dim, shift):
    i, j = np.meshgrid(np.arange(rows) + shift, np.arange(dim), indexing="ij")
    if kind == "wave":
        return np.sin(0.9 * i + 1.7 * j + 0.3 * i * j).astype(np.float32)
    return ((i * (j + 2) + j) % 5 - 2).astype(np.float32)


def labels(rows, shift):
    i = np.arange(rows) + shift
    # Label 100 stands alone; label 200 is only ever a query.
    return np.where(i == 7, 100, np.where(i == 1003, 200, (i * i) % 7)).astype(np.int64)


def ranking(q, g, metric, own):
    q, g = q.astype(np.float64), g.astype(np.float64)
    if metric == "cosine":
        q, g = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (q, g))
    score = q @ g.T if metric != "l2" else -((q[:, None] - g[None]) ** 2).sum(-1)
    if own:
        np.fill_diagonal(score, -np.inf)
    order = np.argsort(-score, axis=1, kind="stable")
    return order[:, :-1] if own else order



def measure():
    out = []
    for case in CASES:
        own = case["gallery"] is None
        q = vectors(case["data"], case["queries"], case["dim"], 0 if own else 1000)
        q_labels = labels(case["queries"], 0 if own else 1000)
        g = q if own else vectors(case["data"], case["gallery"], case["dim"], 0)
        g_labels = q_labels if own else labels(case["gallery"], 0)
        order = ranking(q, g, case["metric"], own)

        def knn(query, k, reference, ref_includes_query=False):
            assert k == order.shape[1]
            return torch.zeros(order.shape), torch.from_numpy(order.copy())

        calculator = AccuracyCalculator(include=tuple(METRICS), k=None, knn_func=knn, device=torch.device("cpu"))
        if own:
            values = calculator.get_accuracy(torch.from_numpy(q), torch.from_numpy(q_labels))
        else:
            tensors = (torch.from_numpy(x) for x in (q, q_labels, g, g_labels))
            values = calculator.get_accuracy(*tensors, ref_includes_query=False)
        values = {METRICS[name]: value for name, value in values.items()}

        hits = g_labels[order] == q_labels[:, None]
        matched = hits.any(1)
        for k in (1, 2, 5, 10):
            values[f"recall_at_{k}"] = hits[matched, :k].any(1).mean()
        falling = -np.arange(order.shape[1], dtype=np.float64)[None].repeat(matched.sum(), 0)
        values["ndcg"] = ndcg_score(hits[matched].astype(float), falling, ignore_ties=True)

        # ranx: queries and items by name, ranks as falling scores.
        relevant = {str(i): {str(j): 1 for j in order[i][hits[i]]} for i in np.flatnonzero(matched)}
        ranked = {q: {str(j): float(-rank) for rank, j in enumerate(order[int(q)])} for q in relevant}
        names = {"hit_rate": "hit_at", "recall": "ir_recall_at", "precision": "precision_at", "ndcg": "ndcg_at"}
        asked = [f"{name}@{k}" for name in names for k in (1, 2, 5, 10)]
        for name, value in evaluate(Qrels(relevant), Run(ranked), asked).items():
            name, k = name.split("@")
            values[f"{names[name]}_{k}"] = value
        case["expected"] = {name: float(value) for name, value in values.items()}
        case["without_match"] = int((~matched).sum())
        case["classes"] = len(set(g_labels.tolist()))
        case["nearest"] = order[:, :4].tolist()
        out.append(case)
    return out


if __name__ == "__main__":
    out = measure()
    print('{"pytorch_metric_learning": "%s", "cases": [' % pytorch_metric_learning.__version__)
    print(",\n".join(json.dumps(case) for case in out))
    print("]}")
