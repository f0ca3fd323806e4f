"""Which prompts are dropped, and when."""
