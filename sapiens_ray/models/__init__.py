"""From checkpoint files to callables on a device."""
