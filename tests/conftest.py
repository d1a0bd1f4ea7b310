"""One thread a test process: tiny models run many times slower on several threads when the cores are shared.

And on the CPU wherever they run, where two runs are equal to the last bit; `make test-gpu` shows the GPU to its tests.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "SPARSEPO_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
