"""How likely MinHash-LSH is to find a pair, and which bands and rows find what one wants found.

Signatures of b bands of r values each; a pair whose sets of grams have Jaccard similarity s agrees in one value with
probability s, and in all of at least one band with 1 - (1 - s^r)^b (J. Leskovec, A. Rajaraman, J. Ullman, "Mining of
Massive Datasets", section 3.4.2).
"""

from __future__ import annotations

import math

from pyjpllm.errors import UserError


def collision_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability, 0 to 1, that a pair of this Jaccard similarity shares a band: 1 - (1 - s^r)^b."""
    if not 0 <= similarity <= 1 or bands < 1 or rows < 1:
        raise ValueError(f"similarity {similarity}, bands {bands}, rows {rows}: 0 to 1, at least 1, at least 1")
    share = similarity**rows
    return 1.0 if share == 1 else -math.expm1(bands * math.log1p(-share))


def solve_banding(
    found: tuple[float, float], spared: tuple[float, float], max_functions: int = 4096
) -> tuple[int, int]:
    """(bands, rows) of the fewest hash functions whose curve goes above ``found`` and below ``spared``.

    ``found``: (similarity, probability): pairs at least so similar are found with at least this probability.
    ``spared``: pairs at most so similar are found with at most this one. All numbers between 0 and 1.
    Raises UserError when no banding of at most ``max_functions`` values does it, or the points contradict each other.
    """
    for name, (similarity, probability) in (("found", found), ("spared", spared)):
        if not 0 < similarity < 1 or not 0 < probability < 1:
            raise UserError(f"{name} = [{similarity}, {probability}]: both numbers lie between 0 and 1")
    if spared[0] >= found[0]:
        raise UserError(f"spared similarity {spared[0]} must be below the similarity {found[0]} that is to be found")
    best: tuple[int, int] | None = None
    for rows in range(1, max_functions + 1):
        missed = math.log1p(-(found[0] ** rows))  # of one band, as a logarithm
        bands = math.ceil(math.log1p(-found[1]) / missed) if missed < 0 else max_functions + 1
        while bands <= max_functions and collision_probability(found[0], bands, rows) < found[1]:
            bands += 1  # the quotient was rounded
        limit = max_functions if best is None else best[0] * best[1] - 1
        if bands > limit:
            break  # more rows need more bands still
        if bands * rows <= limit and collision_probability(spared[0], bands, rows) <= spared[1]:
            best = (bands, rows)
    if best is None:
        raise UserError(
            f"no bands and rows of at most {max_functions} hash functions find {found[1]:.3g} of pairs of similarity "
            f"{found[0]} but only {spared[1]:.3g} of those of {spared[0]}; move the two points apart"
        )
    return best
