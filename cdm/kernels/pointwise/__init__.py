"""The steps between PointMamba's matrix products, which treat every point on its own.

`naive` computes them on any device; `gpu` computes each in one pass over memory on CUDA devices.
"""
