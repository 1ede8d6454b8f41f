"""Float64-safe eager references, each another formulation than the mechanism it checks."""
