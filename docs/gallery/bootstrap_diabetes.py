"""How sure is the effect of body mass on diabetes? A thousand resampled regressions of 442 patients."""

import numpy as np
from sklearn.datasets import load_diabetes

from futurebroker import Client


def slope(patients, seed):
    """The effect of body mass (column 2) in one resampling, beside that of the other nine measures."""
    measures, progress = patients
    rows = np.random.default_rng(seed).integers(0, len(progress), len(progress))
    design = np.column_stack([np.ones(len(rows)), measures[rows]])
    coefficients, *_ = np.linalg.lstsq(design, progress[rows], rcond=None)
    return float(coefficients[3])


def main():
    patients = load_diabetes(return_X_y=True)
    with Client() as client:
        shared = client.scatter({"patients": patients})["patients"]
        futures = client.map(slope, [shared] * 1000, range(1000), chunksize=25)
        slopes = np.array(client.gather(futures))
    low, middle, high = np.percentile(slopes, [2.5, 50, 97.5])
    print(f"effect of body mass: {middle:.0f}, with 95 % between {low:.0f} and {high:.0f}")
    print(f"{np.mean(slopes > 0):.1%} of the resamplings say that it raises the score")


if __name__ == "__main__":
    main()
