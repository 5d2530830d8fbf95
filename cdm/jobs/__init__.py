"""What every running job has: its log, its heartbeat, and the device that it holds.

It imports the root modules and `cdm.kernels`.
"""
