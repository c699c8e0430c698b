"""What ``import gala`` offers to Python; it stands beside the commands, and nothing below imports it."""
