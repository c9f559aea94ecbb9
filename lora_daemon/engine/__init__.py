"""The only package that imports torch: bases, adapters, caches, training, generating."""

import os

# Read by libraries when they are first imported, so set before any module here imports torch.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a base is a folder: nothing here asks the network
# Idle OpenMP threads sleep instead of spinning. On a machine that others use as well, each of the
# hundreds of short parallel regions in a step would otherwise wait for a thread that was scheduled
# away: 1300 ms a step instead of 135, measured with two threads on two busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
