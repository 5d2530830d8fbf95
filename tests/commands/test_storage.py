"""Runs whose jobs would not see each other's files are refused before they compute anything."""

import pytest

from cdm.commands.storage import check_storage
from cdm.errors import ConfigError

ALL = (
    *("input-output", "persistence", "software-deployment"),
    *("source-cache", "sources", "storage-local-copies"),
)


@pytest.mark.parametrize("left_out", [None, *ALL[1:]])
def test_a_shared_folder_for_inputs_and_outputs_is_enough(left_out):
    check_storage(None, "", [word for word in ALL if word != left_out])


@pytest.mark.parametrize("provider", ["s3", "fs", "http", "gcs"])
@pytest.mark.parametrize("shared", [ALL, ()])
@pytest.mark.parametrize("here", [True, False])
def test_a_default_storage_provider_is_refused_with_what_to_type(provider, shared, here):
    with pytest.raises(ConfigError, match=f"^found default-storage-provider {provider} ") as caught:
        check_storage(provider, "", shared, here)
    assert "--default-storage-provider none" in str(caught.value)
    assert "dataset.data_dir takes https:// and s3://" in str(caught.value)


def test_secrets_in_a_prefix_are_not_shown():
    with pytest.raises(ConfigError, match="default-storage-prefix s3://bucket/x ") as caught:
        check_storage("s3", "s3://key:geheim@bucket/x", ALL)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("shared", [(), ALL[1:], ("sources",)])
def test_jobs_that_see_no_common_folder_are_refused_and_on_one_machine_they_do(shared):
    found = " ".join(sorted(shared)) or "none"
    with pytest.raises(ConfigError, match=f"^found shared-fs-usage {found} .* expected input-out"):
        check_storage(None, "", shared)
    check_storage(None, "", shared, here=True)
