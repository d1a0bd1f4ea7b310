"""Causal language models: loading, saving, adapters, and what an architecture can do."""
