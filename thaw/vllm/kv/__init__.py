"""KV sessions: token ids and their KV blocks, frozen to a file and restored in another engine."""
