"""Separation of the rows in crates/cli/src/claims/measure.rs by scikit-learn: writes separation.json beside itself.

Needs numpy and scikit-learn; separation.json names the versions that wrote it.
"""

import json
import pathlib

import numpy
import sklearn
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

rows = numpy.array(
    [[numpy.float32((i * 31 + j * 17) % 29) / numpy.float32(29) - numpy.float32(0.5)
      + numpy.float32(0.75 if i % 3 == j else 0) for j in range(4)] for i in range(30)]
)
labels = numpy.arange(30) % 3


def separation(rows, labels):
    found = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows, return_distance=False)
    same = numpy.array([[labels[j] == labels[i] for j in near if j != i][:10] for i, near in enumerate(found)])
    return {
        "one_nn": same[:, 0].mean(),
        "purity": same.mean(),
        "silhouette": float(silhouette_score(rows.astype(float), labels, metric="cosine")),
    }


two = labels != 1
golden = {
    "versions": {"numpy": numpy.__version__, "scikit-learn": sklearn.__version__},
    "all": separation(rows, labels),
    "classes 0 and 2": separation(rows[two], labels[two]),
}
path = pathlib.Path(__file__).with_name("separation.json")
path.write_text(json.dumps(golden, indent=2) + "\n")
