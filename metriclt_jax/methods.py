"""The rows of the paper's tables 2 and 3, as data.

A method says what each stage minimises, how it samples and how it weighs the classes. Everything
else (lengths, learning rates, coefficients) is the same for all rows and comes from the config, so
that rows are compared on equal terms. Adding a method is adding a row.
"""

from dataclasses import dataclass

from metriclt_jax.errors import InputError


@dataclass(frozen=True)
class SecondStage:
    """How the head is re-trained on the frozen backbone (Kang et al. 2020; paper section 2.1)."""

    sampler: str = 'instance'
    weighting: str = 'uniform'


@dataclass(frozen=True)
class Method:
    """One row: stage 1 and, for the two-stage methods, stage 2.

    Attributes:
        classification: classification loss of stage 1, a key of `objectives.CLASSIFICATION_LOSSES`;
            None trains the features by the metric loss alone.
        metric: metric loss of stage 1, a key of `objectives.METRIC_LOSSES`, or None.
        sampler: 'instance' (every image once an epoch) or 'class_balanced'.
        weighting: 'uniform', or 'balanced' for the weights that `config.weighting` describes.
        second_stage: None for the one-stage methods.
    """

    classification: str | None = 'cross_entropy'
    metric: str | None = None
    sampler: str = 'instance'
    weighting: str = 'uniform'
    second_stage: SecondStage | None = None


CRW = SecondStage(weighting='balanced')
CRS = SecondStage(sampler='class_balanced')

METHODS = {
    'ce': Method(),
    'ce_crw': Method(second_stage=CRW),
    'ce_crs': Method(second_stage=CRS),
    'ce_ct_crw': Method(metric='center', second_stage=CRW),
    'ce_tp_crw': Method(metric='triplet', second_stage=CRW),
    'ce_sc_crw': Method(metric='supervised_contrastive', second_stage=CRW),
    'ce_sc': Method(metric='supervised_contrastive'),
    'sc_crw': Method(None, metric='supervised_contrastive', second_stage=CRW),
}


def get_method(name: str) -> Method:
    """The row `name`; raises `InputError` listing the rows when there is none of that name."""
    if name not in METHODS:
        raise InputError(f'method {name!r} is unknown; allowed: {", ".join(METHODS)}')
    return METHODS[name]
