"""The protocols of ``gala overfit``: which agents are trained, on which MDPs they are judged, what is written down."""
