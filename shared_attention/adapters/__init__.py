"""The core's mechanisms in other libraries; each needs its library, imported with the module."""
