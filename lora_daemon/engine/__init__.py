"""The only package that imports torch: bases, adapters, caches, training, generating."""

import os

# Read by libraries when they are first imported, so set before any module here imports torch.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a base is a folder: nothing here asks the network
# An idle OpenMP thread spins for some 200 µs before it sleeps. Left to itself it spins for
# milliseconds, and on a machine that others use as well, each of the hundreds of short parallel
# regions in a step then waits for a thread that was scheduled away. Measured with two threads on
# two cores, ms a step: alone 60 as before (76 when it sleeps ten times sooner); beside two busy
# processes some 300 to 900 instead of up to 11 000.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
