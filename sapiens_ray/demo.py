"""Small models with random weights, for trying the pipeline: python -m sapiens_ray.demo checkpoints/demo"""

from sapiens_ray.cli.demo import main

if __name__ == "__main__":
    main()
