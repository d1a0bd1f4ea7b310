"""The command `sparsepo`: what Snakemake does not do."""
