"""The weights of vLLM's engines: what they are, whose they are, and how they get in and out."""
