"""futurebroker beside its peers on one machine; run with ``python -m bench``."""
