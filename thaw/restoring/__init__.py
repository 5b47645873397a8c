"""Restores: match a snapshot with a target, plan where each byte goes, move it."""
