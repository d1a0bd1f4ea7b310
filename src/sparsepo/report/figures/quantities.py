"""The quantities of training that figures show over the steps: columns of `dynamics.jsonl`. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A column of `dynamics.jsonl`, or one for chosen and one for rejected responses where `sides` is True."""

    name: str
    label: str
    axis: str
    sides: bool = True

    @property
    def columns(self) -> dict[str, str]:
        """Side -> column; the side is "" where there is only one column."""
        if not self.sides:
            return {"": self.name}
        return {side: f"{self.name}_{side}" for side in ("chosen", "rejected")}


QUANTITIES = [
    Quantity("sparsity_u", "mask sparsity: zeros in m_u", "share of zeros"),
    Quantity("sparsity_d", "mask sparsity: zeros in m_d", "share of zeros"),
    Quantity("reverse_kl", "token KL(π‖ref), summed over a response", "nats"),
    Quantity("forward_kl", "token KL(ref‖π), summed over a response", "nats"),
    Quantity("logp_change", "change of log-prob of a response", "nats"),
    Quantity("reward_margin", "margin: reward of chosen - rejected", "margin", sides=False),
    Quantity("reward_accuracy", "pairs whose chosen response has the higher reward", "share of pairs", sides=False),
    Quantity("loss", "loss", "loss", sides=False),
    Quantity("reward", "reward of the policy's own samples", "mean reward", sides=False),
    Quantity("feature", "feature of the policy's own samples", "mean", sides=False),
    Quantity("kl_to_target", "KL(p‖π) to the target", "nats", sides=False),
    Quantity("reverse_kl_to_target", "KL(π‖p) to the target", "nats", sides=False),
    Quantity("js_to_target", "Jensen-Shannon divergence from the target", "nats", sides=False),
    Quantity("tv_to_target", "total variation from the target", "0 to 1", sides=False),
    Quantity("entropy", "entropy of the policy's responses", "nats", sides=False),
]
