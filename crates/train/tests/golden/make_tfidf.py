"""TF-IDF nearest neighbours on BANKING77: the classical system that a tuned text encoder must beat.

usage: make_tfidf.py FOLDER-OF-BANKING77 > tfidf_banking77.json     (needs scikit-learn)

Every query of test.csv finds its nearest query of train.csv by the cosine of TF-IDF vectors; recall_at_1 is the
fraction whose nearest has the same category. Words with scikit-learn's defaults, and the best of its usual variants.
"""

import csv
import json
import sys

import numpy as np
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer

VARIANTS = {
    "words": {},
    "words_sublinear_bigrams": {"sublinear_tf": True, "ngram_range": (1, 2)},
    "characters_2_5": {"analyzer": "char_wb", "sublinear_tf": True, "ngram_range": (2, 5)},
}


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([row["category"] for row in rows])


def recall_at_1(train, train_labels, test, test_labels, options):
    vectorizer = TfidfVectorizer(**options)
    gallery, queries = vectorizer.fit_transform(train), vectorizer.transform(test)
    nearest = np.concatenate(
        [(queries[i : i + 500] @ gallery.T).toarray().argmax(axis=1) for i in range(0, len(test), 500)]
    )
    return float((train_labels[nearest] == test_labels).mean())


folder = sys.argv[1]
train, train_labels = read(f"{folder}/train.csv")
test, test_labels = read(f"{folder}/test.csv")
recalls = {name: recall_at_1(train, train_labels, test, test_labels, o) for name, o in VARIANTS.items()}
json.dump({"scikit_learn": sklearn.__version__, "recall_at_1": recalls}, sys.stdout, indent=1)
print()
