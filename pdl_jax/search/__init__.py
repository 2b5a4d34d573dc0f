"""Search of architectures: spaces, a controller, rewards, students and their results."""
