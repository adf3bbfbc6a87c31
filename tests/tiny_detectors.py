"""Tiny object detectors of transformers with random weights, as folders that `save_pretrained` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LABELS = {0: "bicycle", 1: "person", 2: "N/A"}


def rtdetr_v2(**options: Any) -> tuple[Any, Any]:
    """As rtdetr_v2_r50vd and rtdetr_v2_r18vd: photos are squeezed to a square. Names count persons from 0 there."""
    from transformers import RTDetrImageProcessor, RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrV2Config(
        backbone_config=backbone, encoder_in_channels=[12, 16, 20], encoder_hidden_dim=32, encoder_layers=1,
        encoder_ffn_dim=32, encoder_attention_heads=2, d_model=32, num_queries=30, decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32, decoder_layers=2, decoder_attention_heads=2, num_denoising=0, **options,
    )  # fmt: skip
    return RTDetrV2ForObjectDetection(config), RTDetrImageProcessor(size={"height": 64, "width": 64})


def rf_detr(**options: Any) -> tuple[Any, Any]:
    """As rf-detr-medium: a DINOv2 encoder with windows."""
    from transformers import RfDetrConfig, RfDetrDinov2Config, RfDetrForObjectDetection, RfDetrImageProcessor

    backbone = RfDetrDinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, num_windows=2,
        out_indices=[1, 2],
    )  # fmt: skip
    config = RfDetrConfig(
        backbone_config=backbone, d_model=32, decoder_layers=2, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, decoder_ffn_dim=32, num_queries=12, group_detr=2, **options,
    )  # fmt: skip
    return RfDetrForObjectDetection(config), RfDetrImageProcessor(size={"height": 64, "width": 64})


def detr_dc5(**options: Any) -> tuple[Any, Any]:
    """As detr-resnet-101-dc5: a backbone of timm with dilation, and photos that keep their aspect."""
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

    config = DetrConfig(
        backbone="test_resnet", dilation=True, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=20, **options,
    )  # fmt: skip
    return DetrForObjectDetection(config), DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 100})


MAKERS: dict[str, Callable[..., tuple[Any, Any]]] = {"rtdetr_v2": rtdetr_v2, "rf_detr": rf_detr, "detr_dc5": detr_dc5}


def write_detector(folder: Path, kind: str = "rtdetr_v2", labels: dict[int, str] = LABELS) -> Path:
    """Write a detector that finds many persons, with scores that differ by photo."""
    torch.manual_seed(0)
    model, processor = MAKERS[kind](id2label=labels, label2id={name: number for number, name in labels.items()})
    with torch.no_grad():  # as they are initialized, all queries find one box with one score
        for name, weight in model.named_parameters():
            if "class_embed" in name or "class_labels" in name or "enc_score" in name:
                weight.normal_(std=1 if weight.ndim > 1 else 0.1)
            elif "query_position" in name:
                weight.normal_(std=3)
            elif "bbox" in name or ("decoder" in name and weight.ndim > 1):
                weight.mul_(6)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind == "detr_dc5":  # the repository has a file of 2021
        old = {
            "do_normalize": True, "do_resize": True, "feature_extractor_type": "DetrFeatureExtractor",
            "format": "coco_detection", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
            "max_size": 100, "size": 64,
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(old))
    return folder
