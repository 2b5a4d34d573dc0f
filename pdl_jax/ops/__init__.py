"""jnp operations with an implementation per platform; no parameters, no state."""
