# A contact diffusion model of one's own: snakemake train. Its checkpoints lie under the run's ckpt/;
# a training that was stopped goes on from training.pt there.


rule train:
    output:
        f"{RUN}/ckpt/model{CONFIG.training.steps:06}.pt",
    log:
        f"{RUN}/logs/train.log",
    conda:
        "../envs/sampling.yaml"
    threads: job_threads
    resources:
        gpu=1,
    script:
        "../scripts/train.py"
