"""Plain NumPy twins of the kernels: slow, obvious, and the oracle in the tests."""
