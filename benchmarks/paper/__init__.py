"""The tables of the paper's supplement, measured: see `python -m benchmarks.paper --help`."""
