"""The limits of the specification on what a manifest says (sections 7 and 9)."""

MAX_RANKS = 99999
MAX_NAME_NBYTES = 4096
MAX_DIMENSIONS = 64
MAX_EXTENT = 2**63 - 1
