"""What does not count when texts are compared."""

from __future__ import annotations

import pytest

from pyjpllm.corpus.folding import Folding, fold


@pytest.mark.parametrize(
    ("how", "folded"),
    [
        ("none", " Ａb_1\u3000 ｶﾞ、２"),
        ("width", "ab_1 ガ、2"),
        ("letters", "ab1ガ2"),
        ("no-digits", "abガ"),
    ],
)
def test_fold(how: Folding, folded: str) -> None:
    assert fold(" Ａb_1\u3000 ｶﾞ、２", how) == folded
