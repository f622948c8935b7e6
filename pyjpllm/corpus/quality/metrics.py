"""How good a classifier is on documents whose labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_BINS = 15
_STEPS = 20
_LEAST = 1e-15  # probabilities below it count as this, so that no loss is infinite


def accuracy(probabilities_NC: F64, labels_N: NDArray[np.int64]) -> float:
    """Documents whose most probable label is theirs; of equals the first label."""
    return float((probabilities_NC.argmax(1) == labels_N).mean())


def log_loss(probabilities_NC: F64, labels_N: NDArray[np.int64]) -> float:
    """Mean of -log of the probability of a document's own label, in nats."""
    own_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
    return float(-np.log(np.maximum(own_N, _LEAST)).mean())


def calibration_error(probabilities_NC: F64, labels_N: NDArray[np.int64]) -> float:
    """The expected calibration error (ECE): of documents in 15 bins by the probability of their most probable label,
    the mean difference between it and how often it is right (Guo et al. 2017)."""
    sure_N = probabilities_NC.max(1)
    right_N = probabilities_NC.argmax(1) == labels_N
    bins_N = np.minimum((sure_N * _BINS).astype(np.int64), _BINS - 1)
    difference = np.bincount(bins_N, sure_N - right_N, _BINS)
    return float(np.abs(difference).sum() / len(labels_N))


def area_under_curve(scores_N: F64, good_N: NDArray[np.bool_]) -> float | None:
    """The probability that a good document has the higher score of a good and another one (ROC AUC), an equal score
    counting half; None where all are good or none is."""
    good = int(good_N.sum())
    others = len(good_N) - good
    if good == 0 or others == 0:
        return None
    _, places, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equals, from 1
    return float((ranks[places][good_N].sum() - good * (good + 1) / 2) / (good * others))


def by_threshold(scores_N: F64, good_N: NDArray[np.bool_], low: float, high: float) -> list[dict[str, Any]]:
    """What is kept when documents of a lower score than a threshold are dropped, for 20 thresholds from ``low`` up:
    the share that is kept, its precision (good ones among it), recall, and F1. None: nothing to divide by."""
    rows = []
    for step in range(_STEPS):
        threshold = low + (high - low) * step / _STEPS
        kept_N = scores_N >= threshold
        kept, good, both = int(kept_N.sum()), int(good_N.sum()), int((kept_N & good_N).sum())
        rows.append(
            {
                "threshold": round(threshold, 6),
                "kept": kept / len(scores_N),
                "precision": both / kept if kept else None,
                "recall": both / good if good else None,
                "f1": 2 * both / (kept + good) if kept + good else None,
            }
        )
    return rows
