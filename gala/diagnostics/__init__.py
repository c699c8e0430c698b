"""What can be said about a trained agent: does it generalise, or has it memorised? Nothing below imports this."""
