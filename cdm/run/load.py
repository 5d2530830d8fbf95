"""What a job loads before it samples: the statistics, the text features and the model."""

from pathlib import Path

import torch

from cdm.datasets.statistics import Statistics, load_statistics
from cdm.errors import ArchiveError
from cdm.jobs.machine import keep_freed_memory
from cdm.model.cdm import CDM, resolve_precision
from cdm.model.scene_model import load_scene_model
from cdm.model.state_dict import load_state_dict
from cdm.model.text import TextEncoder, load_text_encoder
from cdm.model.text_probe import PROBE, check_encoder_as_trained, probe_of, recorded_probe
from cdm.run.plan import Plan


def planned_statistics(plan: Plan) -> Statistics:
    """The normalisation statistics.

    Raises:
        ArchiveError: the file holds other numbers than when the plan was made.
    """
    statistics = load_statistics(plan.statistics.path, plan.config.dataset.contact_dim)
    if not plan.statistics.computed and plan.statistics.values != statistics.numbers():
        raise ArchiveError(
            f"{plan.statistics.path}: changed since the run was planned; start snakemake again, "
            "finished chunks are kept"
        )
    return statistics


def encode_texts(plan: Plan, texts: list[str], device: str) -> dict[str, torch.Tensor]:
    """The feature of each distinct caption, (text_feat_dim,) float32 on the device.

    The encoder is freed afterwards, because the sampling needs the memory.
    """
    return features_of(plan, read_text_encoder(plan), texts, device)


def read_text_encoder(plan: Plan) -> TextEncoder:
    """The text encoder, with its weights in main memory."""
    text_model = plan.config.model.text_model
    return load_text_encoder(
        text_model.version,
        text_model.max_length,
        plan.architecture.text_feat_dim,
        text_model.path,
    )


def features_of(
    plan: Plan, encode: TextEncoder, texts: list[str], device: str
) -> dict[str, torch.Tensor]:
    """`encode_texts` with an encoder that was read before.

    Raises:
        CheckpointError: it is not the encoder that the model was trained with, as far as known.
    """
    distinct, folder = sorted(set(texts)), Path(plan.checkpoint.path).parents[1]
    then = recorded_probe(plan.config, folder)
    with torch.inference_mode():
        features = encode.to(device)(distinct + [PROBE] * (then is not None)).to(device)
    if then is not None:
        check_encoder_as_trained(plan.config, folder, then, probe_of(features[-1].cpu()))
    return dict(zip(distinct, features[: len(distinct)], strict=True))


def load_model(plan: Plan, device: str) -> CDM:
    """The checkpoint's CDM with its scene model, on a device and in eval mode.

    Raises:
        CheckpointError: a weights file is not the one that was planned.
    """
    return place_model(read_model(plan), plan, device)


def read_model(plan: Plan) -> CDM:
    """The model of `load_model`, with its weights in main memory; `place_model` comes next."""
    model = CDM(plan.architecture)
    state = load_state_dict(Path(plan.checkpoint.path), plan.checkpoint.sha256)
    model.load_state_dict(state, strict=True)
    if plan.scene_model is not None:
        path, sha256 = Path(plan.scene_model.path), plan.scene_model.sha256
        model.scene_model = load_scene_model(path, sha256)
    return model


def place_model(model: CDM, plan: Plan, device: str) -> CDM:
    """The model on the device that it computes on, in the precision that is configured for it."""
    if device == "cpu":
        keep_freed_memory()
    model.precision = resolve_precision(plan.config.sampling.precision, device)
    return model.to(device).eval()
