"""Runs an exported model with onnxruntime and compares its embeddings with those that embedtune computed.

    python check.py FOLDER

FOLDER holds model.onnx, expected.npy, and an array for each of the model's inputs (NAME.npy), or texts.json for a model
of text, whose tokens this script makes itself: it shows what a program needs that uses such a model. The largest
difference is printed; more than 1e-5 of the largest value (at least 1) is an error.

Written with onnxruntime 1.32 and numpy 2.4.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime

MASK64 = (1 << 64) - 1


def fnv(kind, text):
    """64-bit FNV-1a over the kind and the text in UTF-8, the high half folded in."""
    value = 0xCBF29CE484222325
    for byte in kind + text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK64
    return value ^ (value >> 32)


def rows(text, spec):
    """A text's rows of the table, in order, with the square roots of their counts."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    tokens = [fnv(b"w", word) for word in words]
    if spec["pairs"]:
        tokens += [fnv(b"p", f"{a} {b}") for a, b in zip(words, words[1:])]
    shortest, longest = spec["grams"]
    for word in words:
        marked = f"<{word}>"
        for length in range(shortest, longest + 1):
            tokens += [fnv(b"c", marked[i : i + length]) for i in range(len(marked) - length + 1)]
    counts = {}
    for token in tokens:
        row = token % spec["rows"]
        if row not in counts and len(counts) == spec["max_tokens"]:
            break
        counts[row] = counts.get(row, 0) + 1
    return [(row, count**0.5) for row, count in counts.items()]


def text_inputs(texts, spec):
    found = [rows(text, spec) for text in texts]
    longest = max(1, max(len(each) for each in found))
    ids = np.zeros((len(texts), longest), np.int64)
    weights = np.zeros((len(texts), longest), np.float32)
    for item, each in enumerate(found):
        for place, (row, weight) in enumerate(each):
            ids[item, place], weights[item, place] = row, weight
    return {"ids": ids, "weights": weights}


def main(folder):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert isinstance(json.loads(metadata["classes"]), list)
    texts = folder / "texts.json"
    if texts.exists():
        inputs = text_inputs(json.loads(texts.read_text()), json.loads(metadata["tokens"]))
    else:
        inputs = {each.name: np.load(folder / f"{each.name}.npy") for each in session.get_inputs()}
    expected = np.load(folder / "expected.npy")
    (got,) = session.run(["embeddings"], inputs)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    worst = float(np.abs(got - expected).max())
    largest = float(np.abs(expected).max())
    print(f"largest difference {worst:.2e}, largest value {largest:.3f}")
    assert worst <= 1e-5 * max(1.0, largest), "the exported model computes something else"


main(pathlib.Path(sys.argv[1]))
