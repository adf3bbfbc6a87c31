"""The entry point for clusters: ray job submit --working-dir . -- python jobs/label.py configs/job.yaml

It takes the arguments of `sapiens-ray run`.
"""

import sys

from sapiens_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
