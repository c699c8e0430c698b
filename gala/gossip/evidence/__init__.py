"""What gossip did, and the bound that its own events certify."""
