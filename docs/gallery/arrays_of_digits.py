"""Principal components of handwritten digits with dask's arrays: dask makes the graph, futurebroker runs it."""

import dask.array as da
import numpy as np
from sklearn.datasets import load_digits

from futurebroker import Client


def main():
    digits = load_digits()
    with Client() as client:
        images = client.persist(da.from_array(digits.data, chunks=(300, 64)))
        centred = images - images.mean(axis=0)
        covariance = (centred.T @ centred / (len(images) - 1)).compute()
        values, vectors = np.linalg.eigh(covariance)
        components = vectors[:, ::-1][:, :10]
        kept = (centred @ components).compute()
    explained = values[::-1][:10].sum() / values.sum()
    print(f"{kept.shape[1]} of 64 components explain {explained:.1%} of the variance of {len(kept):,} images")


if __name__ == "__main__":
    main()
