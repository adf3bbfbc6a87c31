"""`python -m sapiens_ray`, if the console script is not on the PATH."""

import sys

from sapiens_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
