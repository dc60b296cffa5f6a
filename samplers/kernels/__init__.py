"""The kernels, one algorithm to a file."""
