"""Which layers are compressed, when, how far, and what that did in a run."""
