"""A local web page on which a person drops images and reads the answers of a trained bundle."""
