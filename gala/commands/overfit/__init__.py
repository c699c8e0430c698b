"""One function for each subcommand of ``gala overfit``: words in, exit status out."""
