"""PointTransV2: PointTrans with text and time at three levels, and attention at the coarsest."""

from typing import Any, ClassVar

from torch import nn

from cdm.model.backbones.point_trans import PointTrans

NUM_HEADS = 8


class PointTransV2(PointTrans):
    """The points of the coarsest level attend to each other before text and time join them."""

    signature = r"contact_model\.ctx4\."
    defaults: ClassVar = PointTrans.defaults | {
        "attention_layers": 1,
        "attention_hidden_dim": 1024,
    }
    dropout = 0.1
    ctx4: Any  # a Context
    context_names = ("ctx2", "ctx3", "ctx4")

    @classmethod
    def read_sizes(cls, weights):
        layers = "self_attn_layers.layers."
        return super().read_sizes(weights) | {
            "attention_layers": weights.count(layers),
            "attention_hidden_dim": weights.dim(f"{layers}0.linear1.weight", 0),
        }

    def __init__(self, architecture, scan_backend="auto"):
        super().__init__(architecture, scan_backend)
        sizes = architecture.sizes
        layer = nn.TransformerEncoderLayer(
            sizes["planes"][-1], NUM_HEADS, sizes["attention_hidden_dim"], 0.0, batch_first=True
        )
        layers = sizes["attention_layers"]
        self.self_attn_layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def set_dropout(self, share):
        """In the attention layer, where afford-motion drops: weights, hidden units, residuals."""
        for layer in self.self_attn_layers.layers:
            layer.self_attn.dropout = share
            for part in (layer.dropout, layer.dropout1, layer.dropout2):
                part.p = share

    def mix(self, x):
        return self.self_attn_layers(x.to(self.ctx4[0].weight.dtype))
