"""What can be set, how it is read, and what follows from it."""
