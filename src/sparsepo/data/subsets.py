"""A seeded choice of pairs, by prompt."""

import random
from collections.abc import Sequence

from sparsepo.data.records import Preference


def share_of(pairs: Sequence[Preference], share: float, seed: int) -> list[Preference]:
    """The pairs of floor(share * N) of their N prompts, at least one, in their order.

    For one seed the prompts of a smaller share are among those of a larger one.
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    random.Random(seed).shuffle(prompts)
    kept = set(prompts[: max(1, int(share * len(prompts) + 1e-6))])  # 0.29 * 100 is a little less than 29
    return [pair for pair in pairs if pair.prompt in kept]
