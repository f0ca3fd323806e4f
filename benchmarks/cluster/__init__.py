"""A saved workflow of BiGain Evaluate on several GPUs or machines."""
