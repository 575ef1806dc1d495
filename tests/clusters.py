"""A Dask cluster for tests."""

from typing import Any

from distributed import LocalCluster


def quick_cluster(workers: int = 2, **more: Any) -> LocalCluster:
    """Start a scheduler and workers that are threads of this process, so that no library is loaded again."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
        **more,
    )
