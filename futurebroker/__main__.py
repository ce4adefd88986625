"""``python -m futurebroker`` is the command ``futurebroker``."""

from futurebroker.cli.main import main

if __name__ == "__main__":
    main()
