"""Look into a computation: the ends of its tasks, where they spent their time, and a page with a flame graph."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from futurebroker import Client


def errors_with(data, neighbours, fold):
    """How many digits of one fold are taken for others by their nearest neighbours in the rest."""
    images, digits = data
    test = np.arange(len(digits)) % 5 == fold
    model = KNeighborsClassifier(neighbours, algorithm="brute").fit(images[~test], digits[~test])
    return int((model.predict(images[test]) != digits[test]).sum())


def main(page="profile.html"):
    digits = load_digits()
    with Client() as client:
        data = client.scatter({"digits": (digits.data, digits.target)})["digits"]
        with client.get_task_stream() as stream:
            cases = [(neighbours, fold) for neighbours in range(1, 11) for fold in range(5)]
            futures = [client.submit(errors_with, data, *case) for case in cases]
            errors = client.gather(futures)
        profile = client.profile(filename=page)
    seconds = sum(end["stop"] - end["start"] for end in stream)
    by_neighbours = [sum(errors[i : i + 5]) for i in range(0, len(errors), 5)]
    print(f"{len(stream)} tasks took {seconds:.1f} s in all; {profile['count']} samples were taken")
    print(f"a flame graph is in {Path(page).name} ({Path(page).stat().st_size:,} bytes)")
    best = int(np.argmin(by_neighbours))
    print(f"fewest errors with {best + 1} neighbours: {by_neighbours[best]} of {len(digits.target)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
