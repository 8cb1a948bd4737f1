"""Files in, batches out.

`prepare` writes a data set once, `load_dataset` opens and divides it, and `pipeline` makes batches.
"""

from metriclt_jax.data.dataset import Dataset, load_dataset
from metriclt_jax.data.preparation import prepare

__all__ = ['Dataset', 'load_dataset', 'prepare']
