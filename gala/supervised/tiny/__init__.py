"""Images in which one small object decides the class."""
