"""The page: one file of HTML that holds what a sweep found, and opens without a network."""
