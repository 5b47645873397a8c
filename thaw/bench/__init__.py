"""What this machine can move, and what share of it every backend reaches."""
