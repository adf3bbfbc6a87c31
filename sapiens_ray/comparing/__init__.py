"""Two outputs over the same images: how far their labels agree, and the images that differ most."""

from sapiens_ray.comparing.compare import CompareOptions, Comparison, compare_outputs

__all__ = ["CompareOptions", "Comparison", "compare_outputs"]
