"""Tables of a task: the comparison of methods and the grid of settings."""
