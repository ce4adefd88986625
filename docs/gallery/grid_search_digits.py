"""Find the best support vector machine for handwritten digits: a grid of models, of which the best is known early.

The data is sent once and mapped by every executor; results are used as they come, and the rest is cancelled as soon as
a model is good enough.
"""

from itertools import product

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from futurebroker import Client, as_completed

GOOD_ENOUGH = 0.97


def score(data, cost, gamma):
    images, digits = data
    return cost, gamma, cross_val_score(SVC(C=cost, gamma=gamma), images, digits, cv=3).mean()


def main():
    digits = load_digits()
    grid = list(product([0.1, 1.0, 10.0, 100.0], [1e-4, 1e-3, 1e-2]))
    with Client() as client:
        data = client.scatter({"data": (digits.data, digits.target)})["data"]
        futures = [client.submit(score, data, cost, gamma) for cost, gamma in grid]
        best = (0.0, 0.0, 0.0)
        for future in as_completed(futures):
            best = max(best, future.result(), key=lambda found: found[2])
            if best[2] >= GOOD_ENOUGH:
                client.cancel(futures)
                break
    print(f"C={best[0]:g} gamma={best[1]:g} recognizes {best[2]:.1%} of the digits")
    print("good enough" if best[2] >= GOOD_ENOUGH else "the best of the grid")


if __name__ == "__main__":
    main()
