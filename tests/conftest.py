"""One thread a test process: tiny models run many times slower on several threads when the cores are shared."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
