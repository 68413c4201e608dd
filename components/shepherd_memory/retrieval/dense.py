"""One tenant's vectors of one model, and how near a question is to each turn.

A document may have several vectors; the nearest counts.  Vectors are of length
1, so that products are cosines.  A matrix never changes: `grown` writes behind
its end, where nobody looks yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shepherd_memory.archive.records import StoredVectors

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorMatrix:
    """Rows in the order in which they were written."""

    buffer: Matrix
    """`[at least num_rows, dimensions]`."""
    owners: npt.NDArray[np.int64]
    """The document of each row; `[num_rows]`."""

    @classmethod
    def empty(cls, dimensions: int) -> VectorMatrix:
        """No rows yet."""
        return cls(np.empty((0, dimensions), np.float32), np.empty(0, np.int64))

    def grown(self, rows: Iterable[StoredVectors]) -> VectorMatrix:
        """With more rows; one at a time grows from a matrix."""
        dimensions = self.buffer.shape[1]
        new = [(each.doc, np.frombuffer(each.vectors, np.float32)) for each in rows]
        if not new:
            return self
        added = np.concatenate([vectors.reshape(-1, dimensions) for _, vectors in new])
        docs = np.repeat(
            np.array([doc for doc, _ in new], np.int64),
            [len(vectors) // dimensions for _, vectors in new],
        )
        size, end = len(self.owners), len(self.owners) + len(added)
        buffer = self.buffer
        if end > len(buffer):
            buffer = np.empty((max(end, 2 * size), dimensions), np.float32)
            buffer[:size] = self.buffer[:size]
        buffer[size:end] = added
        return VectorMatrix(buffer, np.concatenate([self.owners, docs]))

    def nearness(self, query: Matrix, places: npt.NDArray[np.int64], size: int) -> Matrix:
        """The cosine of each place's nearest vector, -1 where it has none; `[size]`.

        `places` is where each document stands, by number, -1 where it does not.
        """
        best = np.full(size, -1.0, np.float32)
        known = self.owners < len(places)
        owners = places[self.owners[known]]
        there = owners >= 0
        products = (self.buffer[: len(self.owners)] @ query)[known]
        np.maximum.at(best, owners[there], products[there])
        return best


def normalised(vectors: Matrix) -> Matrix:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    divided: Matrix = vectors / np.maximum(lengths, 1e-12)
    return divided.astype(np.float32)
