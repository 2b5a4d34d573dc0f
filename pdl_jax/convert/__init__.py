"""Published weights to our variables."""
