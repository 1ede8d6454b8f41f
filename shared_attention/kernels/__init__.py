"""Triton kernels. Importing this package imports no triton; its `*_kernels` modules do."""
