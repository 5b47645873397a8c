"""The plugin host, what thaw itself registers there, and which of it serves a path or a device."""
