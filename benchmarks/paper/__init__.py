"""The tables of the paper's supplement, measured: see `python -m benchmarks.paper --help`.

Results of a row are kept image by image under its own name, so a row that stands in four tables
runs once and a killed run continues. Held-out images of the small models are drawn into a folder
once: there is one way through the code, and a rehearsal on small models covers published ones.
"""
