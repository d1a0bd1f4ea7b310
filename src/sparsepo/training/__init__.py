"""SFT and preference training on transformers' Trainer."""
