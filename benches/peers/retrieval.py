"""Exact nearest neighbours beside faiss-cpu's IndexFlatIP, retrieval metrics beside pytorch-metric-learning's
AccuracyCalculator. Ours starts from the arrays as they are; faiss's index is built before the clock starts."""

import numpy

CLASSES = 500


def cases():
    for rows, queries, dim, k in ((60_000, None, 64, 100), (1_000_000, 10_000, 128, 10)):
        yield {
            "name": f"knn-{rows}x{queries or rows}-dim{dim}-k{k}",
            "kind": "knn", "rows": rows, "queries": queries, "dim": dim, "k": k,
            "peers": ["ours", "faiss"],
            # All scores; the first neighbour's row must be the same one, except among a million rows, where some
            # query's two best differ by less than the rounding of their scores.
            "tolerances": {"faiss": {"scores": 2e-6} | ({} if rows > 100_000 else {"first": 0.0})},
        }
    # k as deep as the largest class, which precision_at_1, r_precision and MAP@R need; and the whole ranking, for mAP.
    for rows, depth in ((20_000, "max_bin_count"), (10_000, None)):
        yield {
            "name": f"metrics-{rows}-dim64-{'R' if depth else 'all'}",
            "kind": "metrics", "rows": rows, "dim": 64, "depth": depth,
            "peers": ["ours", "pml"],
            # Over a part of the ranking MRR and mAP are other numbers than ours.
            "tolerances": {"pml": {"metrics" if depth is None else "metrics_at_r": 2e-5}},
        }


def write_inputs(case, folder):
    """Unit vectors around a centre for each class."""
    rng = numpy.random.default_rng(29)
    centres = rng.standard_normal((CLASSES, case["dim"]), dtype=numpy.float32)

    def rows(count):
        labels = rng.integers(0, CLASSES, count)
        x = centres[labels] + 1.2 * rng.standard_normal((count, case["dim"]), dtype=numpy.float32)
        return x / numpy.linalg.norm(x, axis=1, keepdims=True), labels

    vectors, labels = rows(case["rows"])
    numpy.save(folder / "gallery.npy", vectors)
    numpy.save(folder / "labels.npy", labels)
    if case.get("queries"):
        numpy.save(folder / "queries.npy", rows(case["queries"])[0])


def faiss_flat(case, folder):
    import faiss

    gallery = numpy.load(folder / "gallery.npy")
    queries = numpy.load(folder / "queries.npy") if case["queries"] else gallery
    index = faiss.IndexFlatIP(case["dim"])
    index.add(gallery)
    if case["queries"]:
        del gallery
    state = {}

    def run():
        state.clear()
        state["scores"], state["rows"] = index.search(queries, case["k"])

    return run, lambda: {"scores": state["scores"], "first": state["rows"][:, 0].astype(numpy.float64)}


def accuracy_calculator(case, folder):
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    vectors = torch.from_numpy(numpy.load(folder / "gallery.npy"))
    labels = torch.from_numpy(numpy.load(folder / "labels.npy"))
    names = ["precision_at_1", "r_precision", "mean_average_precision_at_r"]
    if case["depth"] is None:
        names += ["mean_reciprocal_rank", "mean_average_precision"]
    calculator = AccuracyCalculator(include=tuple(names), k=case["depth"], device=torch.device("cpu"))
    state = {}

    def run():
        values = calculator.get_accuracy(vectors, labels)
        state["metrics"] = numpy.array([values[name] for name in names])

    key = "metrics" if case["depth"] is None else "metrics_at_r"
    return run, lambda: {key: state["metrics"]}


PEERS = {"faiss": faiss_flat, "pml": accuracy_calculator}
