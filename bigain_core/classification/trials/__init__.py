"""Which trials there are: timesteps, noise, and how much an error counts."""
