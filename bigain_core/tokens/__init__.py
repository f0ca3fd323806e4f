"""What can be done with image tokens: place, score, select, match, pool, and plan."""
