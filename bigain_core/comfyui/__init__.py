"""The only package that imports `comfy`: it reaches a model's attention and scores prompts."""
