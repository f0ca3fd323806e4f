"""Which trials there are: timesteps, noise, and what an error counts."""
