# Training of a contact diffusion model: snakemake train. Its checkpoints lie under the run's ckpt/;
# a training that was stopped goes on from training.pt there. The record has a key of the settings
# in its name, so that other settings start the job, which goes on or says why it cannot.


rule train:
    """Train a contact diffusion model, or go on with its training."""
    input:
        lambda wildcards: tell_changed_items(),
    output:
        str(finished_path(CONFIG)),
    log:
        f"{RUN}/logs/train.log",
    conda:
        "../envs/sampling.yaml"
    threads: job_threads
    resources:
        gpu=1,
    script:
        "../scripts/train.py"
