"""From a configuration to the finished archive: the plan, the chunks, the merge.

It imports the root modules and the wings up to `cdm.archive`.
"""
