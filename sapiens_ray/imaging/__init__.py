"""Decoding, encoding and resizing images and float maps."""
