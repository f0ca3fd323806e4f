"""Operations on image tokens: grid, scores, selection, matching, pooling, and plans."""
