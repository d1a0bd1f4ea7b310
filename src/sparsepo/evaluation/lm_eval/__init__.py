"""Benchmarks of lm-eval, with the Open LLM Leaderboard 2."""
