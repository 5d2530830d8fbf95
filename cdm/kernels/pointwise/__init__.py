"""Pointwise steps of PointMamba, fused: `naive` is the reference, `gpu` runs on CUDA devices."""
