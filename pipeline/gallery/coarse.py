"""The coarse scan of a large gallery: the templates in the 128 dimensions that say most about them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.gallery.rows import Matrix
from pipeline.packets import Floats

WIDTH = 128
SAMPLE = 32_768  # templates that the directions are fitted on; more do not change them


class Coarse:
    """Principal directions of the templates, and each template's place along them, row by row as in their matrix.

    The directions are the leading eigenvectors of the second moments X'X/n, about zero and not about the mean: of all
    linear maps to so few dimensions these keep the inner products of the templates best (Eckart and Young, 1936).

    What is left of a template that is dropped: its row here is overwritten in the same step. The directions are an
    average over all templates and stay until the next fit.

    Attributes:
        values: (N, WIDTH), rows as in the matrix of the templates.
        fitted_on: How many templates there were when the directions were fitted.
    """

    def __init__(self, templates: Matrix, count: int) -> None:
        """Fit the directions on the first ``count`` templates and project all of them."""
        self.fitted_on = count
        sample = templates[range(0, count, -(-count // SAMPLE))]
        self._directions = principal_directions(sample, WIDTH)
        self.values = Matrix(self._directions.shape[1])
        for start, part in templates.parts(count):
            self.values[range(start, start + len(part))] = self.project(part)

    def project(self, vectors: Floats) -> Floats:
        """(N, D) to (N, WIDTH)."""
        return vectors @ self._directions

    def put(self, rows: Iterable[int], vectors: Floats) -> None:
        """Follow a change of the templates in ``rows``."""
        self.values[rows] = self.project(vectors)

    def drop(self, row: int, last: int) -> None:
        """Follow a template's removal."""
        self.values.swap_delete(row, last)


def principal_directions(vectors: Floats, width: int) -> Floats:
    """The ``width`` leading eigenvectors of the second moments of ``vectors`` (N, D), as columns (D, width)."""
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(directions[:, -width:])
