"""One module per verb: the function for Python, and `command` for the command line."""
