"""The entry point for clusters: ray job submit --working-dir . -- python jobs/label.py configs/job.yaml

It takes the arguments of `sapiens-ray run`. If `ray job submit` ends with an AuthenticationError, the cluster asks for
a token: docs/cluster.md says what to do.
"""

import sys

from sapiens_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
