"""flax.linen modules: variables in, arrays out."""
