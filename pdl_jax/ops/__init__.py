"""jnp operations with a formulation per platform; no parameters, no state."""
