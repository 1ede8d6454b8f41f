"""Models of the finance domain, one module per paper. Importing this imports no torch."""
