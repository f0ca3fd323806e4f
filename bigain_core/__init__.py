"""Token compression for diffusion models and zero-shot classification with them, on tensors."""
