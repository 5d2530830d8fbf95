"""What a contact backbone offers: its work split by how often it has to run."""

from abc import ABC, abstractmethod

from torch import nn


class Backbone(nn.Module, ABC):
    """From noisy contact maps and conditions to features of every point.

    A backbone is built from an `Architecture`. Point order is its own choice: x_t goes in, and
    features come out, in the order of `prepare`'s state.
    """

    @abstractmethod
    def prepare(self, c_text, c_pc_xyz, c_pc_feat=None):
        """Everything that neither x_t nor t changes; once per sample.

        Args:
            c_text: (batch, text_feat_dim).
            c_pc_xyz: (batch, num_points, 3), metres.
            c_pc_feat: (batch, num_points, point_feat_dim), None when point_feat_dim is 0.
        Returns:
            state with `order` and `inverse`, (batch, num_points) int64, or None and None when
            points keep their order.
        """

    @abstractmethod
    def step_share(self, time_emb):
        """The share of the time embedding, (rows, time_emb_dim) to (rows, hidden); once a run."""

    @abstractmethod
    def features(self, x_t, step_share_t, state):
        """Features before `last_linear`; once per sample and step.

        Args:
            x_t: (batch, num_points, contact_dim), in the state's order.
            step_share_t: (batch, hidden), rows of `step_share`.
        Returns:
            (batch, num_points, width).
        """

    @property
    @abstractmethod
    def last_linear(self) -> nn.Linear:
        """The linear layer from `features` to last_dim; the caller may fold it into its own."""

    def fused(self, dtype):
        """The whole backbone and head in fused kernels, where there are any for this device.

        Args:
            dtype: of the matrix products, torch.float32 or torch.bfloat16.
        Returns:
            None, or output(x_t, step_share_t, state, head): `features`, then the linear layer
            head = (weight, bias) in place of `last_linear`. Weights are taken as they are now.
        """

    def forward(self, x_t, step_share_t, state):
        """Features, (batch, num_points, last_dim), in the state's order."""
        return self.last_linear(self.features(x_t, step_share_t, state))
