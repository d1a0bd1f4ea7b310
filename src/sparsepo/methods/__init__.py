"""The table of methods and their parameters: plain data, without torch."""
