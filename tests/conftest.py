"""One thread per process: bit-exact tests need the same number everywhere, and two cores have
no more to give. Set before torch and NumPy are loaded, and inherited by all processes."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
