"""Figures of a task: frontier, dynamics, diversity, token heatmaps."""
