"""Golden values for tests/retrieval/verify.rs and clusters.rs: scikit-learn's roc_curve, roc_auc_score, NMI, AMI and
KMeans, and the equal error rate as SciPy finds it on the interpolated curve.

    python make_verify.py > verify.json     (scikit-learn 1.9.1, SciPy 1.17.1, numpy 2.4.6)

Data are make_metrics.py's closed forms.
"""

import json

import numpy as np
import sklearn
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score, roc_auc_score, roc_curve

from make_metrics import labels, vectors

FARS = [0.0, 0.001, 0.01, 0.1, 0.5, 1.0]


def rates(same, scores):
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    at = [int(np.searchsorted(far, wanted, side="right")) - 1 for wanted in FARS]
    return {
        "auc": float(roc_auc_score(same, scores)),
        "eer": float(brentq(lambda x: 1.0 - x - interp1d(far, tar)(x), 0.0, 1.0)),
        # Above the strictest threshold nothing is accepted: no operating point.
        "at_far": [None if i == 0 else {"far": far[i], "tar": tar[i], "threshold": float(thresholds[i])} for i in at],
    }


def pairs(metric, q, g):
    q, g = q.astype(np.float64), g.astype(np.float64)
    if metric == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    return q @ g.T if metric != "l2" else -np.sqrt(((q[:, None] - g[None]) ** 2).sum(-1))


out = {"scikit_learn": sklearn.__version__, "fars": FARS, "pairs": [], "partitions": [], "kmeans": []}
for metric, data, dim, queries, gallery in (
    ("cosine", "wave", 5, 61, None), ("dot", "wave", 4, 40, 70), ("l2", "wave", 3, 150, None), ("l2", "wave", 3, 20, 90)
):
    q, ql = vectors(data, queries, dim, 0 if gallery is None else 1000), labels(queries, 0 if gallery is None else 1000)
    g, gl = (q, ql) if gallery is None else (vectors(data, gallery, dim, 0), labels(gallery, 0))
    take = np.triu_indices(queries, 1) if gallery is None else np.indices((queries, gallery)).reshape(2, -1)
    scores, same = pairs(metric, q, g)[take[0], take[1]], (ql[:, None] == gl[None])[take[0], take[1]]
    out["pairs"].append({"metric": metric, "data": data, "dim": dim, "queries": queries, "gallery": gallery,
                         "positives": int(same.sum()), "negatives": int((~same).sum()), **rates(same, scores)})

# Scores with ties, as they are.
scores = [((7 * i * i + 3 * i) % 23) / 8 for i in range(90)]
same = [((i * 5) % 7) < 3 for i in range(90)]
out["scores"] = {"scores": scores, "same": same, **rates(same, scores)}

for rows, a, b in ((60, 5, 7), (200, 40, 13), (31, 31, 4), (50, 1, 6), (50, 1, 1), (30, 30, 30), (300, 3, 3)):
    i = np.arange(rows)
    x, y = (i * i + 3 * i) % a, (i * 11 + (i // 3) * 5) % b
    out["partitions"].append({"a": x.tolist(), "b": y.tolist(), "nmi": float(normalized_mutual_info_score(x, y)),
                              "ami": float(adjusted_mutual_info_score(x, y))})

for rows, dim, clusters in ((80, 3, 4), (200, 6, 9)):
    x = vectors("wave", rows, dim, 0)
    found = KMeans(clusters, init=x[:clusters], n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(x)
    out["kmeans"].append({"rows": rows, "dim": dim, "clusters": clusters, "assignment": found.labels_.tolist(),
                          "inertia": float(found.inertia_), "centre": found.cluster_centers_[0].tolist()})
print(json.dumps(out))
