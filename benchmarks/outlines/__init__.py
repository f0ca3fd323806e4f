"""Operations of whole networks, without running them."""
