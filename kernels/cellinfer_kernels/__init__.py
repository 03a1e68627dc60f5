"""Numba kernels on plain arrays: what cellinfer spends its time in besides the network.

Each module has a plain NumPy twin of the same name in `reference/`, which is the oracle in the tests. Kernels are
serial and release the GIL; running many fields at once is the engine's business, one layer up.
"""

from cellinfer_kernels._jit import cache_folder, cache_is_kept, on_compile

__all__ = ["cache_folder", "cache_is_kept", "on_compile"]
