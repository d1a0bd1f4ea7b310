"""Features of a response: numbers whose mean a distributional target asks for."""

import re
from collections.abc import Sequence

from sparsepo.evaluation.scorers import Scorer


def contains(words: Sequence[str]) -> Scorer:
    """1 where the response has one of these words, else 0; whole words, whatever their case. The prompt is no matter.

    >>> contains(["good"])(["", ""], ["A Good film", "goodness"])
    [1.0, 0.0]
    """
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return lambda prompts, texts: [float(pattern.search(text) is not None) for text in texts]
