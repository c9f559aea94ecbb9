"""The only package that imports torch: bases, adapters, caches, training, generating."""

import os

# Read by libraries when they are first imported, so set before any module here imports torch.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a base is a folder: nothing here asks the network
# An idle OpenMP thread spins only some 20 µs before it sleeps. Left to itself it spins for
# milliseconds, and on a machine that others use as well, each of the hundreds of short parallel
# regions in a step then waits for a thread that was scheduled away: with two threads on two busy
# cores, seconds a step instead of a fifth of one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
