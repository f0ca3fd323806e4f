"""Operations, times and how settings compare."""
