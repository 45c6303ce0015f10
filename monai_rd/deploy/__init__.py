"""What becomes of a trained bundle: files for other runtimes, and services that use it."""
