"""Grow a decision tree for breast cancer by tasks that submit tasks: each split asks for its two halves.

A task that waits for others gives up its slot, so the recursion may be as deep as it likes on two executors.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer

from futurebroker import Client, get_client

SMALL = 40


def best_split(rows, labels):
    """The column and threshold that separate best, of each column's median and quartiles."""

    def impurity(mask):
        share = labels[mask].mean() if mask.any() else 0.0
        return mask.sum() * share * (1 - share)

    places = [(c, t) for c in range(rows.shape[1]) for t in np.percentile(rows[:, c], [25, 50, 75])]
    return min(places, key=lambda p: impurity(rows[:, p[0]] <= p[1]) + impurity(rows[:, p[0]] > p[1]))


def grow(rows, labels):
    """A tree: a share of benign cases, or (column, threshold, tree below, tree above)."""
    if len(rows) < SMALL or labels.min() == labels.max():
        return float(labels.mean())
    column, threshold = best_split(rows, labels)
    below = rows[:, column] <= threshold
    if below.all() or not below.any():
        return float(labels.mean())
    client = get_client()
    halves = [client.submit(grow, rows[mask], labels[mask]) for mask in (below, ~below)]
    return (column, float(threshold), *client.gather(halves))


def predict(tree, row):
    while isinstance(tree, tuple):
        column, threshold, below, above = tree
        tree = below if row[column] <= threshold else above
    return tree > 0.5


def main():
    rows, labels = load_breast_cancer(return_X_y=True)
    test = np.arange(len(rows)) % 4 == 0
    with Client(executors_per_worker=2) as client:
        tree = client.submit(grow, rows[~test], labels[~test]).result()
    right = np.mean([predict(tree, row) == label for row, label in zip(rows[test], labels[test], strict=True)])
    print(f"{right:.1%} of the {test.sum()} cases that it has not seen are judged right")


if __name__ == "__main__":
    main()
