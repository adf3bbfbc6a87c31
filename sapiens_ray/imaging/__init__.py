"""Arrays and bytes of images and float maps."""
