"""Teachers: frozen foundation models."""
