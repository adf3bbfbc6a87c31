"""Time of a Sapiens2 model of full size beside the same model in `transformers`. Weights are random.

    python benchmarks/sapiens2.py [--size 0.4b] [--task seg] [--rounds 3] [--threads N] [--with-bfloat16-transformers]

All models are in one process and take turns, one image at a time, so that a busy machine slows all of them. `best` is
the fastest round, `times` how often it goes into that of transformers in float32, `differs` the largest difference from
its output, relative to the largest value. Needs `pip install 'transformers>=5.10.1'`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], Any]

# Width, layers and heads of the encoder; layers beyond the first and the last eight have half as many key heads.
ENCODERS = {
    "0.1b": (768, 12, 12), "0.4b": (1024, 24, 16), "0.8b": (1280, 32, 16), "1b": (1536, 40, 24), "5b": (2432, 56, 32),
}  # fmt: skip
HEADS: dict[str, dict[str, Any]] = {
    "seg": {"enlarge": (512, 256, 128, 64), "conv": (64, 64), "channels": 29},
    "pose": {"enlarge": (1024, 768), "conv": (512, 512, 256), "channels": 308},
    "normal": {"enlarge": (768, 512, 256, 128), "conv": (64, 32, 16), "channels": 3},
    "features": {},
}
CLASSES = {"seg": "ForSemanticSegmentation", "pose": "ForPoseEstimation", "normal": "ForNormalEstimation",
           "features": "Model"}  # fmt: skip
OUTPUTS = {"seg": "logits", "pose": "heatmaps", "normal": "normals", "features": "last_hidden_state"}


def transformers() -> Any:
    """The package, which is not installed everywhere."""
    return importlib.import_module("transformers")


def write_random(folder: Path, task: str, size: str) -> Path:
    """Write a checkpoint with the names and shapes of a published one, and the configuration for transformers."""
    import torch
    from safetensors.torch import save_file

    from sapiens_ray.models.rope import default_periods
    from sapiens_ray.models.sapiens2 import Sapiens2, Sapiens2Architecture

    torch.manual_seed(0)
    width, layers, heads = ENCODERS[size]
    full = [layer < 8 or layer >= layers - 8 for layer in range(layers)]
    key_heads = tuple(heads if every else heads // 2 for every in full)
    parts = HEADS[task]
    head = "decode_head" if parts else ""
    model = Sapiens2(Sapiens2Architecture(task, width, heads, key_heads, 4 * width, 8, head=head, **parts))
    state = model.state_dict()
    state["backbone.rope_embed.periods"] = default_periods(width // heads, torch.bfloat16)
    if not parts:
        state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    path = folder / "model.safetensors"
    save_file(state, path, {"format": "pt"})
    shuffles = task == "normal"
    about = {"upsample_out_channels": list(parts["enlarge"]), "conv_out_channels": list(parts["conv"]),
             "use_pixel_shuffle": shuffles, "conv_kernel_size": 3 if shuffles else 1,
             "upsample_kernel_size": 3 if shuffles else 4} if parts else None  # fmt: skip
    transformers().Sapiens2Config(
        image_size=[1024, 768], hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads_per_layer=list(key_heads),
        num_labels=parts.get("channels", 2), head_config=about,
    ).save_pretrained(folder)  # fmt: skip
    return path


def ours(path: Path, mode: str, rope: Any, compiling: str, photo: Any) -> Run:
    """Our model as an actor runs it, from uint8 pixels on."""
    from sapiens_ray.engine.runner import Runner
    from sapiens_ray.models.compiling import CompileCache

    runner = Runner(path, "cpu", 1, mode=mode, rope=rope)
    runner.warm_up(1024, 768, compiling, CompileCache("benchmark", None))
    for note in runner.take_notes():
        print(f"  {note}")
    batch = runner.lane.upload([photo])
    return lambda: next(iter(runner(batch)))[2]


def theirs(folder: Path, task: str, dtype: Any, photo: Any) -> Run:
    """The model of transformers, from normalised pixels on."""
    import torch

    from sapiens_ray.models.sapiens2 import Sapiens2Family

    kind = getattr(transformers(), f"Sapiens2{CLASSES[task]}")
    model = kind.from_pretrained(folder, dtype=dtype).eval()
    rgb = torch.from_numpy(photo[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (Sapiens2Family.mean_rgb, Sapiens2Family.std_rgb))
    images = ((rgb - mean) / std).to(dtype)

    def run() -> Any:
        with torch.inference_mode():
            return model(pixel_values=images)[OUTPUTS[task]]

    return run


def compared(task: str, found: Any, reference: Any) -> float:
    """The largest difference of an output from that of transformers, relative to the largest value."""
    if task == "features":  # ours is a map, and the class token
        reference = reference[:, 9:].transpose(1, 2).reshape(found[0].shape) if isinstance(found, tuple) else reference
        found = found[0] if isinstance(found, tuple) else found
    return float((found.float() - reference.float()).abs().max() / reference.float().abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.4b", choices=ENCODERS)
    parser.add_argument("--task", default="seg", choices=HEADS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--with-bfloat16-transformers", action="store_true")
    given = parser.parse_args()

    import cv2
    import torch

    import sapiens_ray
    from sapiens_ray.tasks.network import stretch

    torch.set_num_threads(given.threads)
    image = cv2.imread(str(Path(sapiens_ray.__file__).parent / "samples" / "astronaut.jpg"))
    assert image is not None
    photo = stretch(image, (1024, 768))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = write_random(folder, given.task, given.size)
        print(f"Sapiens2 {given.task} {given.size}, random weights, one image of 768 x 1024, {given.threads} threads")
        runs = {
            "transformers, float32": theirs(folder, given.task, torch.float32, photo),
            "float32, rope float32": ours(path, "float32", "float32", "none", photo),
            "float32": ours(path, "float32", "bfloat16", "none", photo),
            "bfloat16": ours(path, "bfloat16", "bfloat16", "none", photo),
            "bfloat16, compiled": ours(path, "bfloat16", "bfloat16", "default", photo),
        }
        if given.with_bfloat16_transformers:
            runs["transformers, bfloat16"] = theirs(folder, given.task, torch.bfloat16, photo)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        outputs: dict[str, Any] = {}
        for _ in range(given.rounds):
            for name, run in runs.items():
                started = time.perf_counter()
                outputs[name] = run()
                seconds[name].append(time.perf_counter() - started)
    first = next(iter(runs))
    print("| model | best s | median s | times | differs |\n| --- | --- | --- | --- | --- |")
    for name, taken in seconds.items():
        times = min(seconds[first]) / min(taken)
        error = compared(given.task, outputs[name], outputs[first])
        print(f"| {name} | {min(taken):.2f} | {statistics.median(taken):.2f} | {times:.2f} | {error:.1e} |")


if __name__ == "__main__":
    main()
