"""The idea in pure torch: token terms, losses, mask heads, and the table of methods."""
