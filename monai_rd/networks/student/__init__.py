"""Small networks that are deployed."""
