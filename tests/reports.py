"""A report as `check` would write it, made up: every kind of gate, artifact and section, in every state."""

from __future__ import annotations

from typing import Any

import numpy as np

from illama_deploy.measure import Interval, pack_correct
from illama_deploy.report import Gate, Report, finite_notes, pay_notes, steadiness_notes
from illama_deploy.tasks import TASKS

FLOAT, INTEGER = "illama-out/onnx/model.float.onnx", "illama-out/onnx/model.onnx"
PRECISE, HALF, OTHER = (
    "out/openvino/model.float.onnx",
    "out/openvino/model.float.onnx (bf16)",
    "out/openvino/model.onnx",
)
ENGINE = "illama-out/trt"
CONFIDENT = np.array([[0] * 9 + [3, 5, 8, 20, 64, 400], [0] * 9 + [1, 3, 6, 15, 58, 391]])


def latency(batch: int, ms: float, ratio: float, to: str) -> dict[str, Any]:
    """Of a made-up artifact: 400 rounds about `ms`."""
    times = np.sort(ms * (1 + 0.05 * np.random.default_rng(batch).standard_normal(400)))
    quantiles = [round(float(q), 4) for q in np.percentile(times, np.arange(41) * 2.5)]
    return {
        **{"batch": batch, "threads": 1, "rounds": 400, "warmup_rounds": 5, "p50_ms": ms, "p90_ms": 1.1 * ms},
        **{"p99_ms": None, "images_per_s": 1e3 * batch / ms, "cv": 0.05, "outliers": 2, "drift": 1.01},
        **{"quantiles_ms": quantiles, "ratio": ratio, "ratio_low": 0.97 * ratio, "ratio_high": 1.02 * ratio},
        "ratio_to": to,
    }


def artifact(
    role: str, target: str, name: str, format_: str, top1: float, drop: float, times: list[dict[str, Any]], size: int
) -> dict[str, Any]:
    """A made-up artifact that was measured."""
    accuracy = {"top1": top1, "top5": 98.4, "ece": 0.0591, "nll": 0.6123, "brier": 0.2871}
    comparison = {"top1_drop": drop, "agreement": 99.32, "logit_sqnr_db": 34.4}
    return {
        "role": role,
        "target": target,
        "info": {
            **{"name": name, "format": format_, "backend": "onnxruntime", "provider": "CPUExecutionProvider"},
            **{"size_bytes": size, "sha256": f"{size:064x}", "manifest_sha256": "cd" * 32},
        },
        "accuracy": {
            **accuracy,
            "images": 500,
            "intervals": {key: [value - 0.013, value + 0.017] for key, value in accuracy.items()},
            "reliability": [
                [int(n), int(right), (i + 0.6) / 15 if n else None] for i, (n, right) in enumerate(CONFIDENT.T)
            ],
            "correct": pack_correct(np.arange(500) % 5 > 0),
        },
        "comparison": {**comparison, "intervals": {k: [v - 0.21, v + 0.19] for k, v in comparison.items()}},
        "latency": times,
        "proof": None,
    }


def properties(ratio: float, rank: float) -> dict[str, Any]:
    """Made-up properties of an artifact."""
    triples = {
        name: [value, value - 0.01, value + 0.01] for name, value in (("ece", 0.06), ("nll", 0.6), ("brier", 0.3))
    }
    diagram = {"edges": [0.1, 0.55, 0.9, 1.0], "reliability": [[100, 41, 0.4], [200, 161, 0.8], [200, 190, 0.96]]}
    counts = {"stimuli": 30, "shape": 8, "texture": 12, "neither": 10, "ratio": [ratio, ratio - 0.1, ratio + 0.1]}
    empty = {"stimuli": 30, "shape": 0, "texture": 0, "neither": 30, "ratio": None}
    curve = [[(i / 40) ** 0.5 for i in range(41)]] * 3
    top1 = {"fog": [70.0, 66.0, 61.0], "gaussian_noise": [60.0, 41.0, 22.0]}
    return {
        "calibration": {
            **{"bins": 3, "binning": "equal-mass", **triples, **diagram},
            "scaled": {"temperature": 1.2345, "split": "train", "images": 1024, **triples, **diagram},
        },
        "shape_bias": {
            **{**counts, "stimuli": 60, "no_conflict": 5, "skipped": [], "source": "a/folder"},
            **{"categories": {"airplane": counts, "cat": empty}, "mapping": {"airplane": [0], "cat": [3, 5]}},
        },
        "attention_rank": {
            "masks": [
                {"mask": mask, "share": 0.8, "images": 128, "tokens": 65, "mean": value}
                | {"rank": [[value, value + 1, value - 1]] * 12, "curve": [curve] * 12}
                for mask, value in (("causal", rank), ("bidirectional", rank / 2))
            ]
        },
        "corruptions": {"images": 500, "severities": [1, 3, 5], "clean": 81.0, "top1": top1, "mean": 53.3},
    }


def document(**changes: Any) -> dict[str, Any]:
    """Content of a `report.json`; `changes` replace fields of `Report`."""
    artifacts = [
        artifact("baseline", "onnx-cpu", FLOAT, "float32", 80.96, 0.0, [latency(1, 6.1, 1, FLOAT)], 21_480_000),
        artifact("baseline", "openvino", PRECISE, "float32", 80.96, 0.0, [latency(1, 5.2, 1.6, HALF)], 21_490_000),
        artifact("baseline", "openvino", HALF, "bfloat16", 80.9, 0.06, [latency(1, 3.25, 1, HALF)], 21_490_000),
        artifact("candidate", "onnx-cpu", INTEGER, "W8A8", 81.08, -0.12, [latency(1, 2.9, 0.478, FLOAT)], 5_720_000),
        artifact("candidate", "openvino", OTHER, "W8A8", 80.4, 0.56, [latency(1, 3.4, 1.046, HALF)], 5_730_000),
    ]
    artifacts[0]["properties"], artifacts[3]["properties"] = properties(0.41, 41.2), properties(0.39, 40.9)
    artifacts[4]["properties"] = {
        "attention_rank": {"not_measured": "openvino does not show attention maps, torch does"}
    }
    layers = [
        {"name": "blocks.0.attn.q", "kernel": "QGemm", "precision": "int8", "site": "blocks.0.attn.q"},
        {"name": "blocks.0.norm1", "kernel": "RMSNormalization", "precision": "float32", "site": None},
    ]
    artifacts[3]["proof"] = {"summary": "1 of 1 quantized GEMMs on quantized kernels", "kernels": {}, "layers": layers}
    unmeasured = artifact("candidate", "tensorrt", ENGINE, "W8A8", 0, 0, [], 0)
    unmeasured |= {"accuracy": None, "comparison": None, "not_measured": "no CUDA device: pip install 'x[trt]'"}
    unmeasured["info"]["sha256"] = ""
    artifacts.append(unmeasured)
    gates = []
    for one in artifacts[3:]:
        name = one["info"]["name"]
        if "not_measured" in one:
            gates.append(Gate.unmeasured("accuracy_drop", name, "", 0.5, one["not_measured"]))
            gates.append(Gate.unmeasured("latency_ratio", name, "batch 1", 1.0, one["not_measured"]))
            continue
        drop = Interval(one["comparison"]["top1_drop"], *one["comparison"]["intervals"]["top1_drop"])
        gates.append(Gate.judge("accuracy_drop", name, "", 0.5, drop).versus(FLOAT))
        for times in one["latency"]:
            ratio = Interval(times["ratio"], times["ratio_low"], times["ratio_high"])
            gates.append(
                Gate.judge("latency_ratio", name, f"batch {times['batch']}", 1.0, ratio).versus(times["ratio_to"])
            )
    gates.append(Gate.judge("latency_change", INTEGER, "batch 1", 1.02, Interval(1.001, 0.99, 1.013)))
    names = ["patch_embed.proj", *(f"blocks.{i}.mlp.{fc}" for i in range(8) for fc in ("fc1", "fc2")), "head"]
    sites = [
        {
            **{"name": name, "format": "W8A8", "threshold": [1.234], "largest": [2.5], "sqnr_db": 30.0 + i},
            **{"bytes": 37_000, "alone_db": 50.0 - i, "noise_share": (i + 1) / 171, "clipped": 0.00012},
        }
        for i, name in enumerate(names)
    ]
    quantized = {"manifest_sha256": "cd" * 32, "format": "W8A8", "logit_sqnr_db": 34.4, "images": 16}
    fields: dict[str, Any] = {
        "gates": gates,
        "artifacts": artifacts,
        "notes": [
            *pay_notes(artifacts, 0.02),
            *finite_notes(artifacts, TASKS["classification"]),
            *steadiness_notes(artifacts),
        ],
        "data": {"spec": "digits", "split": "test", "images": 500, "skipped": ["digit 4"], "sha256": "ef" * 32},
        "settings": {
            **{"max_drop": 0.5, "max_latency_ratio": 1.0, "min_effect": 0.02, "confidence": 0.95},
            **{"threads": 1, "batch": [1], "seconds": 5.0, "rounds": None},
        },
        "environment": {
            **{"fingerprint": "0123456789ab", "cpu": "some cpu", "cores": 2, "instruction sets": "avx2 fma"},
            **{"gpus": "none", "system": "Linux x86_64", "python": "3.11.7", "versions": {"torch": "2.14"}},
        },
        "conditions": {"cpu_mhz": [2445.0, 2450.0], "load_before": 0.7, "stolen": 0.0, "gpus": []},
        "quantized": [{**quantized, "not_measured": None, "sites": sites}],
        "command": "illama-deploy check --target cpu --target openvino --target trt",
        "created": "2026-11-20T08:00:00Z",
    }
    return Report(**{**fields, **changes}).to_dict()
