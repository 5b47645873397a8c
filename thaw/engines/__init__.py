"""Engines of vLLM as processes: the launcher that forks them."""
