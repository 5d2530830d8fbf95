"""Where a run may write: a folder that all of its jobs see, and not Snakemake's storage.

The plan, the chunks' stores and the archive are no inputs and outputs of rules (only the records
are), so that Snakemake neither fetches nor stores them. With a default storage provider, or with
an executor whose jobs see no common folder, every chunk would be computed and then not be found.
"""

from collections.abc import Iterable

from cdm.errors import ConfigError
from cdm.files import redacted

NEEDED = "input-output"  # Snakemake's word for: rules' files lie where all jobs see them
ELSEWHERE = (
    "Data may lie elsewhere: dataset.data_dir takes https:// and s3:// (docs/data.md). To have the "
    "finished archive there, copy it once the run is done (docs/clusters.md)"
)


def check_storage(
    provider: str | None, prefix: str | None, shared: Iterable[str], here: bool = False
) -> None:
    """Refuse a run whose jobs would not see each other's files.

    Args:
        provider: Snakemake's default storage provider, None if there is none.
        prefix: its prefix.
        shared: what Snakemake assumes to lie on a file system that all jobs see, in its words.
        here: all jobs run on this machine, whose file system Snakemake then takes for shared.
    Raises:
        ConfigError: says what was found, why it cannot work, and what to type.
    """
    if provider is not None:
        behind = f" with default-storage-prefix {redacted(prefix)}" if prefix else ""
        raise ConfigError(
            f"found default-storage-provider {provider}{behind} (typed, or in a profile): the "
            "chunks of this workflow lie in a folder that all jobs see, and do not go through "
            "Snakemake's storage. Every chunk would be computed and then not be found. Leave out "
            "default-storage-provider and default-storage-prefix, or give --default-storage-"
            f"provider none; outputs go to a shared folder, --directory names it. {ELSEWHERE}"
        )
    words = sorted(shared)
    if NEEDED not in words and not here:
        raise ConfigError(
            f"found shared-fs-usage {' '.join(words) or 'none'} (typed, in a profile, or what the "
            f"executor has), expected {NEEDED} among it: the jobs of this workflow read the plan "
            "and write the chunks in one folder that all of them see. Leave out shared-fs-usage, "
            "and use an executor whose machines share a file system (--workflow-profile "
            f"profiles/slurm or profiles/cluster-generic). {ELSEWHERE}"
        )
