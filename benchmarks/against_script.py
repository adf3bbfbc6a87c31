"""`sapiens-ray run` against the straightforward program (`benchmarks/script.py`), with the same models and photos.

    python benchmarks/against_script.py                               every task at 0.9, 2 and 8 megapixels
    python benchmarks/against_script.py --tasks depth --sizes 0.9     one line of the table
    python benchmarks/against_script.py --json now.json
    python benchmarks/against_script.py --against before.json          fails if a ratio got worse

CPU seconds are those of all processes, per image: the slope between a short and a long run, so that the start does not
count, less what the model alone takes. Both programs do what they do by default. `sapiens-ray` draws pictures of all
images up to a thousand, and of every hundredth of more (`fraction: auto`); `--pictures 1` and `--pictures 0.01` are
these two cases for few images.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import argmax
import cv2
import numpy as np
import processes
import torch
import yaml
from processes import Used
from torch import nn

from sapiens_ray.models import stand_ins

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "sapiens_ray" / "samples"
TASKS = ("seg", "depth", "normal", "pose17", "pose308", "features")
SIZES = {0.9: (720, 1280), 2.0: (1125, 2000), 8.0: (2160, 3840)}  # width, height
IMAGES = {0.9: (64, 448), 2.0: (48, 240), 8.0: (24, 96)}
WIDTH = 1024  # channels of the features of the 0.3B model
NAN = float("nan")
MARGIN = 0.8  # a ratio below this part of the stored one is worse, and not noise
MODEL_BATCHES = 12
BARE = """
import sys, time, torch
if sys.argv[4] == "ours":
    from sapiens_ray.execution.worker import keep_freed_memory
    keep_freed_memory()
    torch.set_num_threads(1)
model = torch.jit.load(sys.argv[1]).eval()
inputs = torch.rand(4, 3, 1024, int(sys.argv[2]))
with torch.inference_mode():
    for number in range(3 + int(sys.argv[3])):
        if number == 3:
            started = time.process_time()
        model(inputs)
print((time.process_time() - started) / int(sys.argv[3]) / 4)
"""


@dataclass(frozen=True)
class Slope:
    """A program at one task and size.

    cpu_ms: outside the model, per image. first_s, first_cpu_s: until the first label. peak_mb: of the long run.
    by_title: CPU ms per image by the title of the process, with the model.
    """

    cpu_ms: float
    images_per_s: float
    first_s: float
    first_cpu_s: float
    peak_mb: float
    by_title: dict[str, float]

    @classmethod
    def of(cls, few: Used, many: Used, images: int, model_s: float) -> Slope:
        """images: by which the runs differ."""
        titles = {
            title: 1000 * (spent - few.by_title.get(title, 0.0)) / images for title, spent in many.by_title.items()
        }
        return cls(
            1000 * ((many.cpu_s - few.cpu_s) / images - model_s), images / (many.seconds - few.seconds),
            few.first_s, few.first_cpu_s, many.peak_mb, titles,
        )  # fmt: skip


class WideEncoder(nn.Module):
    """Features as wide as those of the 0.3B model, at the cost of the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = stand_ins.RandomEncoder()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(images)[0]
        return features.repeat(1, WIDTH // stand_ins.FEATURES, 1, 1)


class Person(nn.Module):
    """Logits as trained models give them for a person. The stand-in of the demo sees regions of one colour, whose
    borders are everywhere."""

    def __init__(self) -> None:
        super().__init__()
        coarse = argmax.person(torch.Generator().manual_seed(0), 24, 18)
        self.logits = nn.Parameter(nn.functional.interpolate(coarse, (512, 384), mode="bicubic"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits + images.mean((1, 2, 3)).view(-1, 1, 1, 1)  # so that the photo has a say


def photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """`count` links to four JPEGs of persons, with the detail of photos of this size."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    width, height = size
    kept: list[Path] = []
    for name in ("astronaut", "grace_hopper"):
        sample = cv2.imread(str(SAMPLES / f"{name}.jpg"))
        assert sample is not None
        high = sample.shape[0]
        wide = min(sample.shape[1], high * width // height)
        left = (sample.shape[1] - wide) // 2
        large = cv2.resize(sample[:, left : left + wide], size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        for turned in (large, large[:, ::-1]):
            noisy = np.clip(turned + random.normal(0, 4, turned.shape), 0, 255).astype(np.uint8)
            kept.append(folder.parent / f"{folder.name}-{len(kept)}.jpg")
            cv2.imwrite(str(kept[-1]), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for number in range(count):
        (folder / f"{number:06d}.jpg").hardlink_to(kept[number % 4])


def write_model(path: Path, task: str) -> None:
    if task not in ("features", "seg"):
        stand_ins.write_model(path, task)
        return
    model, width = (WideEncoder(), 1024) if task == "features" else (Person(), 768)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model.eval(), torch.zeros(2, 3, 1024, width), check_trace=False).save(str(path))


def model_seconds(path: Path, task: str, program: str = "ours") -> float:
    """CPU seconds of the model alone, per image, in a process that is set up as those of the program."""
    width = "1024" if task == "features" else "768"
    command = [sys.executable, "-c", BARE, str(path), width, str(MODEL_BATCHES), program]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_script(task: str, model: Path, folder: Path, out: Path) -> Used:
    command = [sys.executable, str(HERE / "script.py"), task, str(model), str(folder), str(out)]
    return processes.measure(command, lambda: out.is_dir() and any(out.iterdir()))


def job_of(task: str, model: Path, folder: Path, out: Path, pictures: float | None) -> dict[str, Any]:
    """A job that does what the script does. pictures: `output.visualize.fraction`; None for that of a job."""
    options: dict[str, Any] = {"task": task.rstrip("0123456789"), "checkpoint": str(model)}
    if task.startswith("pose"):
        options |= {"keypoints": int(task.removeprefix("pose")), "boxes": "none"}
    if task in ("depth", "normal"):
        options["mask"] = "none"
    if task == "features":
        options["save"] = "map"
    output: dict[str, Any] = {"uri": str(out)} | ({} if pictures is None else {"visualize": {"fraction": pictures}})
    return {"input": {"uri": str(folder)}, "output": output, "tasks": [options]}


def run_job(task: str, model: Path, folder: Path, out: Path, pictures: float | None) -> Used:
    job = out.with_suffix(".yaml")
    job.write_text(yaml.safe_dump(job_of(task, model, folder, out, pictures)))
    command = [sys.executable, "-m", "sapiens_ray", "run", str(job), "--quiet"]
    return processes.measure(command, lambda: any(out.glob("data/s*.parquet")))


def compare(
    task: str, size: float, images: tuple[int, int], pictures: float | None, ours_only: bool
) -> dict[str, Slope]:
    """Both programs with the same models and photos."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = root / "models" / f"{task}.pt2"
        model.parent.mkdir()
        write_model(model, task)
        slopes = {}
        for program in ("ours",) if ours_only else ("script", "ours"):
            used = []
            for number, count in enumerate(images):
                folder, out = root / f"photos-{number}", root / f"{program}-{number}"
                if not folder.is_dir():
                    photos(folder, count, SIZES[size])
                used.append(
                    run_script(task, model, folder, out)
                    if program == "script"
                    else run_job(task, model, folder, out, pictures)
                )
                remove(out)
            alone = model_seconds(model, task, program)
            slopes[program] = Slope.of(used[0], used[1], images[1] - images[0], alone)
    return slopes


def remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--sizes", nargs="+", type=float, default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--images", type=int, nargs=2, metavar="N", help="of the short and the long run")
    parser.add_argument("--pictures", type=float, help="output.visualize.fraction; default: that of a job")
    parser.add_argument("--ours", action="store_true", help="without the script")
    parser.add_argument("--processes", action="store_true", help="ours by process, with the model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--against", type=Path, metavar="FILE", help="kept figures: exit 1 if a ratio is worse")
    arguments = parser.parse_args()
    print(f"{'':>17} {'CPU ms per image':>26} {'images/s':>21} {'start, s (CPU s)':>25} {'peak MB':>17}")
    print(f"{'MP':>4} {'task':>10} {'script':>9} {'ours':>9} {'ratio':>6} {'script':>7} {'ours':>7}")
    figures: dict[str, dict[str, Any]] = {}
    for size in arguments.sizes:
        for task in arguments.tasks:
            images = tuple(arguments.images or IMAGES[size])
            slopes = compare(task, size, images, arguments.pictures, arguments.ours)
            ours = slopes["ours"]
            script = slopes.get("script", Slope(NAN, NAN, NAN, NAN, NAN, {}))
            ratios = {"cpu": script.cpu_ms / ours.cpu_ms, "speed": ours.images_per_s / script.images_per_s}
            figures[f"{task} {size:g}"] = {name: asdict(slope) for name, slope in slopes.items()} | ratios
            print(
                f"{size:>4} {task:>10} {script.cpu_ms:>9.1f} {ours.cpu_ms:>9.1f} {ratios['cpu']:>6.2f} "
                f"{script.images_per_s:>7.1f} {ours.images_per_s:>7.1f} {ratios['speed']:>5.2f} "
                f"{script.first_s:>5.1f} ({script.first_cpu_s:>4.1f}) {ours.first_s:>5.1f} ({ours.first_cpu_s:>4.1f}) "
                f"{script.peak_mb:>8.0f} {ours.peak_mb:>8.0f}",
                flush=True,
            )
            if arguments.processes:
                for title, spent in sorted(ours.by_title.items(), key=lambda one: -one[1])[:12]:
                    print(f"{spent:>26.1f} {title}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.against:
        kept = json.loads(arguments.against.read_text())
        worse = [
            f"{case}: {ratio} {found[ratio]:.2f}, was {kept[case][ratio]:.2f}"
            for case, found in figures.items()
            for ratio in ("cpu", "speed")
            if case in kept and found[ratio] < MARGIN * kept[case][ratio]
        ]
        sys.exit("\n".join(["worse than kept:", *worse]) if worse else 0)


if __name__ == "__main__":
    main()
