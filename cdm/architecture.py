"""The sizes of a contact diffusion model, as plain numbers (no torch)."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a CDM; `cdm.checkpoint` reads it off a checkpoint's shapes.

    Attributes:
        arch: backbone name, such as "PointMamba".
        contact_dim: joints per point, J.
        time_emb_dim: width of the time embedding.
        text_feat_dim: width of the frozen text feature.
        point_feat_dim: columns of point features the backbone sees, 0 for none.
        last_dim: width of the backbone's output, input of the contact layer.
        sizes: the backbone's own sizes; for PointMamba trans_dim (d_model), depth, hidden_dim
            (of the embedding), d_state, d_conv, d_inner and dt_rank.
    """

    arch: str
    contact_dim: int
    time_emb_dim: int
    text_feat_dim: int
    point_feat_dim: int
    last_dim: int
    sizes: dict[str, int] = field(default_factory=dict)
