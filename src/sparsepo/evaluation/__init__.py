"""Rewards, divergence and statistics of sampled responses, and what the masks found."""
