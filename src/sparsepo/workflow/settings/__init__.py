"""What the script of each stage reads of the config: typed objects, passed as JSON by the option `--settings`."""
