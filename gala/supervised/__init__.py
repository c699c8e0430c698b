"""The second loop: supervised training of any model on any data set, with the same optimiser and gossip parts."""
