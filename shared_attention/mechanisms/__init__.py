"""One mechanism a file, each with its `SPEC`."""
