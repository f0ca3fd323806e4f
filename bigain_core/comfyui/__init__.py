"""The only package that imports `comfy`: compression and classification with its models."""
