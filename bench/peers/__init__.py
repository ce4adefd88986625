"""One adapter a peer, loaded by name only in the process that measures it.

So a peer that is not installed, or that is slow to import, costs the others nothing.
"""
