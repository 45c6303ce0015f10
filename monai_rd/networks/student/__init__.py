"""Students: the small networks that are trained and deployed."""
