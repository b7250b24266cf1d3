"""What happens on a node: an image becomes a device, the device a file system, the file system a mount. And back."""
