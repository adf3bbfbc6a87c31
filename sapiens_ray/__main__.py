"""`python -m sapiens_ray`: the command line, where the console script is not on the path."""

import sys

from sapiens_ray.cli.commands import main

sys.exit(main())
