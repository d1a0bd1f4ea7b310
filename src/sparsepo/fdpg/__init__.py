"""Training on samples of the policy itself, towards a target: f-DPG."""
