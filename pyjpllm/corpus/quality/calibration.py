"""Calibration: scores of a classifier into probabilities that mean what they say.

The scores z of the labels become softmax(scale z + shift). For two labels that is Platt's sigmoid (J. Platt 1999,
"Probabilistic Outputs for Support Vector Machines"), for more of them temperature scaling with a bias a label (C. Guo
et al. 2017, "On Calibration of Modern Neural Networks"). Fitted by Newton's method as in H.-T. Lin, C.-J. Lin,
R. C. Weng 2007, "A Note on Platt's Probabilistic Outputs", on targets smoothed as there, so that documents that are
told apart without error do not drive the scale to infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS = 100
_SMALL = 1e-10

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """``scale`` and the ``shifts`` of the labels, the first of which is 0."""

    scale: float
    shifts: tuple[float, ...]

    def __call__(self, scores: Sequence[float]) -> list[float]:
        """The probabilities of the labels. One document at a time in Python's floats, so that the bits do not depend
        on which documents come together."""
        z = [self.scale * score + shift for score, shift in zip(scores, self.shifts, strict=True)]
        greatest = max(z)
        powers = [math.exp(value - greatest) for value in z]
        total = math.fsum(powers)
        return [power / total for power in powers]


def none(labels: int) -> Calibration:
    """That which changes nothing."""
    return Calibration(1.0, (0.0,) * labels)


def fit(scores_NC: F64, labels_N: NDArray[np.int64]) -> Calibration:
    """The calibration with the least log loss over N documents with scores of C labels."""
    N, C = scores_NC.shape
    counts_C = np.bincount(labels_N, minlength=C)
    own_N = (counts_C[labels_N] + 1.0) / (counts_C[labels_N] + 2.0)  # the rest is shared by the other labels
    targets_NC = np.repeat((1.0 - own_N) / (C - 1), C).reshape(N, C)
    targets_NC[np.arange(N), labels_N] = own_N
    theta = np.zeros(C)  # the scale, then the shifts of all labels but the first
    theta[0] = 1.0
    loss = _loss(theta, scores_NC, targets_NC)
    for _ in range(_STEPS):
        gradient, hessian = _slopes(theta, scores_NC, targets_NC)
        step = np.linalg.solve(hessian + _SMALL * np.eye(C), gradient)
        length = 1.0
        while length > _SMALL:
            following = _loss(theta - length * step, scores_NC, targets_NC)
            if following < loss:
                break
            length /= 2
        else:
            break
        theta, before, loss = theta - length * step, loss, following
        if before - loss < _SMALL * N:
            break
    return Calibration(float(theta[0]), (0.0, *map(float, theta[1:])))


def _log_probabilities(theta: F64, scores_NC: F64) -> F64:
    z_NC = theta[0] * scores_NC + np.concatenate([[0.0], theta[1:]])
    z_NC = z_NC - z_NC.max(1, keepdims=True)
    return np.asarray(z_NC - np.log(np.exp(z_NC).sum(1, keepdims=True)))


def _loss(theta: F64, scores_NC: F64, targets_NC: F64) -> float:
    return float(-(targets_NC * _log_probabilities(theta, scores_NC)).sum())


def _slopes(theta: F64, scores_NC: F64, targets_NC: F64) -> tuple[F64, F64]:
    """Gradient and Hessian of the loss in theta."""
    p_NC = np.exp(_log_probabilities(theta, scores_NC))
    difference_NC = p_NC - targets_NC
    mean_N = (p_NC * scores_NC).sum(1)
    gradient = np.concatenate([[(difference_NC * scores_NC).sum()], difference_NC.sum(0)[1:]])
    C = len(theta)
    hessian = np.empty((C, C))
    hessian[0, 0] = (p_NC * scores_NC**2).sum() - (mean_N**2).sum()
    hessian[0, 1:] = hessian[1:, 0] = (p_NC * (scores_NC - mean_N[:, None])).sum(0)[1:]
    hessian[1:, 1:] = np.diag(p_NC.sum(0)[1:]) - np.einsum("nc,nd->cd", p_NC[:, 1:], p_NC[:, 1:])
    return gradient, hessian
