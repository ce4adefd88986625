"""One file a revision, in one line; a new one names the newest as its ``down_revision``."""
