"""`python -m sapiens_ray.cli`, for where the console script is not on the path."""

import sys

from sapiens_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
