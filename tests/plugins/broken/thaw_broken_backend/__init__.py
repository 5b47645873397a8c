"""Plugins that fail in several ways."""
