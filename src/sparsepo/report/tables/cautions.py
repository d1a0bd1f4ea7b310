"""What a careful reviewer would object to in a grid of results."""

import pandas as pd


def cautions(frame: pd.DataFrame) -> list[str]:
    """One sentence per objection that holds for a `grid_frame`, with the settings it holds for."""
    trained = frame[frame["method"] != "sft"]
    sentences = []
    if "reward" in frame and len(trained) == len(frame):
        sentences.append("There is no SFT row, so no method is compared with its starting point.")
    elif "reward" in frame:
        level = frame.loc[frame["method"] == "sft", "reward"].iloc[0]
        sentences += _caution(f"The mean reward is not above SFT's ({level:.3f})", trained, trained["reward"] <= level)
    if len(trained) and (trained["seeds"] == 1).all():
        sentences.append("One seed a row: the intervals cover the sampling of prompts only, not training.")
    else:
        one = "One seed, so the intervals do not cover the variation between trainings"
        sentences += _caution(one, trained, trained["seeds"] == 1)
    if "logp_change_chosen" in frame:
        falling = trained["logp_change_chosen"] < 0
        sentences += _caution("The log-probability of the chosen responses fell", trained, falling)
    far = trained["kl_exact"] > 10 * trained["kl_exact"].median()
    sentences += _caution("The exact KL is over ten times this table's median", trained, far)
    exploded = trained["kl_exact"] > trained["length"]
    sentences += _caution("The exact KL is over one nat for each token of a response", trained, exploded)
    if len(trained) < len(frame):
        longer = trained["length"] > 1.2 * frame["length"].iloc[0]  # SFT's
        sentences += _caution("The responses are over a fifth longer than SFT's", trained, longer)
    for name in ("m_u", "m_d"):
        if f"sparsity_{name}" in frame:
            zeros = trained[f"sparsity_{name}"]
            dead = f"The mask {name} is dead (over 99% of its weights are zero)"
            sentences += _caution(dead, trained, zeros > 0.99)
            sentences += _caution(f"The mask {name} has no exact zero", trained, zeros == 0.0)
    if "effective_beta" in frame:
        text = "β is not what acts: with the weights its effective value is over three times or under a third of it"
        ratio = trained["mean_weight"].where(trained["effective_beta"].notna())
        sentences += _caution(text, trained, (ratio > 3) | (ratio < 1 / 3))
    return sentences


def _caution(text: str, trained: pd.DataFrame, where: pd.Series) -> list[str]:
    """`text` and the settings it holds for; nothing when it holds for none."""
    if not where.any():
        return []
    if where.all() and len(trained) > 1:
        return [f"{text}: every trained setting."]
    settings = trained[where].groupby("label", sort=False)["params"].agg("; ".join)
    return [f"{text}: {', '.join(f'{label} ({params})' for label, params in settings.items())}."]
