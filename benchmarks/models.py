"""Time and memory of a model of full size: loading it, and one image, per file format and mode. Weights are random.

    python benchmarks/models.py [--size 0.3b] [--task seg] [--repeat 3]

Every line is measured in a separate process, for its peak memory. `start` is loading, compiling and the first image.
`memory` is the growth of peak memory while loading; `weights` is the part of it that the tensors take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HEADS = {
    "seg": ((768,) * 3, (768,) * 3, 28, "decode_head", "conv_seg"),
    "depth": ((384,) * 4, (384,) * 2, 1, "decode_head", "conv_seg"),
    "normal": ((768,) * 3, (768,) * 3, 3, "decode_head", "conv_seg"),
    "pose": ((768,) * 2, (768,) * 2, 308, "head", "final_layer"),
    "features": ((), (), None, "", ""),
}
LAYERS = {"0.3b": (1024, 24), "0.6b": (1280, 32), "1b": (1536, 40), "2b": (1920, 48)}


def write_random(path: Path, task: str, size: str) -> None:
    """Write a checkpoint with the shapes of a published one, in the file format of the originals."""
    import torch

    from sapiens_ray.models.sapiens import SIZES, Sapiens, SapiensArchitecture

    torch.manual_seed(0)
    width, layers = LAYERS[size]
    deconv, conv, channels, head, last = HEADS[task]
    about = SapiensArchitecture(task, width, layers, SIZES[width][1], 4 * width, deconv, conv, channels, head, last)
    model = Sapiens(about)
    torch.nn.init.normal_(model.backbone.pos_embed, std=0.02)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)


def photo(task: str) -> object:
    """The sample photo as the network sees it, 1 x H x W x 3 uint8 BGR."""
    import cv2
    import numpy as np

    import sapiens_ray

    image = cv2.imread(str(Path(sapiens_ray.__file__).parent / "samples" / "astronaut.jpg"))
    assert image is not None
    side = 1024 if task == "features" else 768
    return np.ascontiguousarray(cv2.resize(image, (side, 1024)))[None]


def measure(path: Path, mode: str, compiling: str, task: str, repeat: int, reference: Path) -> dict[str, Any]:
    """Load and run a checkpoint in this process; save its output, or compare it with that of `reference`."""
    import numpy as np
    import torch

    from sapiens_ray.engine.runner import Runner
    from sapiens_ray.models.compiling import CompileCache

    def peak() -> float:
        """GB at the peak so far; getrusage would start at the peak of the parent."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9

    before = peak()
    started = time.perf_counter()
    runner = Runner(path, "cpu", 1, os.cpu_count(), mode=mode)
    loaded, memory = time.perf_counter() - started, peak() - before
    images = photo(task)
    runner.warm_up(1024, images.shape[2], compiling, CompileCache(path.name, None))  # type: ignore[attr-defined]
    start = time.perf_counter() - started
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        ((_, _, output),) = runner(torch.from_numpy(images))
        seconds.append(time.perf_counter() - started)
    found = (output[0] if isinstance(output, tuple) else output).numpy()
    state = runner.module.state_dict() if isinstance(runner.module, torch.nn.Module) else {}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 1e9
    if not reference.exists():
        np.save(reference, found)
    wanted = np.load(reference)
    error = float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())
    line = {"load": loaded, "start": start, "image": min(seconds), "memory": memory, "weights": weights}
    for note in runner.take_notes():
        print(note, file=sys.stderr)
    return {**line, "rms": error, "labels": labels_differ(found, wanted, task)}


def labels_differ(found: Any, wanted: Any, task: str) -> str:
    """How much the labels of two outputs differ; 1 x C x H x W each."""
    import numpy as np

    if task == "seg":
        return f"{(found.argmax(1) == wanted.argmax(1)).mean():.4f} of the pixels have the same class"
    if task == "pose":
        shape = wanted.shape[2:]
        peaks = [
            np.stack(np.unravel_index(one[0].reshape(len(one[0]), -1).argmax(1), shape)) for one in (found, wanted)
        ]
        return f"{(np.abs(peaks[0] - peaks[1]).max(0) <= 1).mean():.3f} of the peaks are within one cell"
    if task == "depth":
        return f"{np.abs(found - wanted).max() / (wanted.max() - wanted.min()):.4f} of the range at most"
    both = [one[0] / np.linalg.norm(one[0], axis=0) for one in (found, wanted)]
    degrees = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(both[0] - both[1], axis=0) / 2, 0, 1)))
    return f"{degrees.mean():.2f} degrees in the mean, 99.9 % below {np.quantile(degrees, 0.999):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=LAYERS, default="0.3b")
    parser.add_argument("--task", choices=HEADS, default="seg")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="only the modes, from one file format")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, mode, compiling, reference = arguments.one
        line = measure(Path(path), mode, compiling, arguments.task, arguments.repeat, Path(reference))
        print(json.dumps(line))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "model.pth"
        write_random(source, arguments.task, arguments.size)
        run = [sys.executable, "-m", "sapiens_ray", "convert", str(source), "--to"]
        files = {"torchscript": "model_torchscript.pt2"}
        if not arguments.quick:
            files |= {"bfloat16": "model_bfloat16.pt2", "safetensors": "model.safetensors"}
        for to in files:
            subprocess.run([*run, to], check=True)
        lines = [("pickle", "model.pth", "float32", "none")]
        lines += [(to, file, "float32", "none") for to, file in files.items() if to != "bfloat16"]
        lines += [("pickle", "model.pth", "bfloat16", "none")]
        lines += [(to, file, "bfloat16", "none") for to, file in files.items() if not arguments.quick]
        lines += [("pickle", "model.pth", "bfloat16", "default")] * 2
        print(f"{'format':<12} {'mode':<12} {'compile':<8} {'load s':>7} {'start s':>8} {'image s':>8} "
              f"{'memory GB':>10} {'weights GB':>11} {'rms error':>10}  labels", flush=True)  # fmt: skip
        for file_format, file, mode, compiling in lines:
            options = ["--task", arguments.task, "--repeat", str(arguments.repeat)]
            done = subprocess.run(
                [sys.executable, __file__, *options, "--one", str(folder / file), mode, compiling,
                 str(folder / "reference.npy")],
                env={**os.environ, "SAPIENS_RAY_CACHE": str(folder / "cache")}, stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
            seen = json.loads(done.stdout.splitlines()[-1])
            print(f"{file_format:<12} {mode:<12} {compiling:<8} {seen['load']:7.1f} {seen['start']:8.1f} "
                  f"{seen['image']:8.2f} {seen['memory']:10.2f} {seen['weights']:11.2f} {seen['rms']:10.2g}  "
                  f"{seen['labels']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
