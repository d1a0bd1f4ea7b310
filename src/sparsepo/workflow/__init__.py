"""What Snakemake asks of the package: stages, their settings, code versions and resources."""
