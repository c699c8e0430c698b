"""Who sends to whom."""
