"""Every form tried on Core ML itself, for ``milpasses doctor --core-ml``."""
