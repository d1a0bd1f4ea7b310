"""Processes and files: errors, atomic writes, caches of results, GPU slots, launching, provenance."""
